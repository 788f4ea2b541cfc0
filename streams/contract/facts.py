"""Facts of forgetting as records of the topic `fences`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from memory.model.forgetting import Barrier, ClosedRequest, Fence, FenceFact, Posting
from memory.model.text import canonical_json
from memory.model.times import FOREVER
from streams.contract.cloudevents import Header
from streams.contract.records import HEARTBEAT, JSON, Marker, OutgoingRecord, Record
from streams.contract.strict_json import load_json
from streams.contract.topics import Topic, event_type

KINDS: Mapping[str, type[FenceFact]] = {
    "fence": Fence,
    "barrier": Barrier,
    "posting": Posting,
    "request": ClosedRequest,
}
"""By what a record calls them. It says what the fact has as fields, and nothing else."""
_NAMES = {kind: name for name, kind in KINDS.items()}


def encode_fact(fact: FenceFact) -> OutgoingRecord:
    """A fact's record; its key is the digest of what it says, so repeats compact away."""
    value = canonical_json({"kind": _NAMES[type(fact)], **asdict(fact)})
    headers = (
        (str(Header.TYPE), event_type(Topic.FENCES).encode()),
        (str(Header.CONTENT_TYPE), JSON.encode()),
    )
    return OutgoingRecord(Topic.FENCES, key_of_fact(value), value, headers)


def decode_fact(record: Record) -> FenceFact | Marker:
    """The fact of a record. Raises ValueError saying what is wrong, quoting nothing."""
    types = [value for name, value in record.headers if name == Header.TYPE]
    if types == [HEARTBEAT.encode()]:
        return Marker.HEARTBEAT
    if record.value is None:
        return Marker.TOMBSTONE
    if types != [event_type(Topic.FENCES).encode()]:
        raise ValueError(f"its type is not {event_type(Topic.FENCES)}")
    if record.key != key_of_fact(record.value):
        raise ValueError("its key is not the digest of its value")
    try:
        found = load_json(record.value.decode())
    except ValueError:
        raise ValueError("it is not JSON") from None
    said = found if isinstance(found, dict) else {}
    kind = said.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError("its kind is unknown")
    names = {field.name for field in fields(KINDS[kind])}
    if set(said) != names or not all(map(_is_valid, said, said.values())):
        raise ValueError(f"it does not say what a {kind} says")
    return KINDS[kind](**said)


def _is_valid(name: str, value: Any) -> bool:
    if name == "until":
        return type(value) is int and 0 <= value <= FOREVER
    return isinstance(value, str) and bool(value)


def key_of_fact(value: bytes) -> bytes:
    """What the key of a record with this value must be."""
    return hashlib.sha256(value).hexdigest().encode()
