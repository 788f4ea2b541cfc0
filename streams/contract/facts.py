"""Facts of forgetting as records of the topic `fences`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from memory.model.times import FOREVER
from memory.ports import FenceFact
from streams.contract.cloudevents import Header
from streams.contract.records import HEARTBEAT, JSON, Marker, OutgoingRecord, Record
from streams.contract.strict_json import dump_json, load_json
from streams.contract.topics import Topic, event_type

FIELDS: Mapping[str, tuple[str, ...]] = {
    "fence": ("selector", "until"),
    "barrier": ("image", "until"),
    "posting": ("selector", "image"),
    "request": ("request", "until"),
}
"""What each kind of fact says, and nothing else."""


def encode_fact(fact: FenceFact) -> OutgoingRecord:
    """A fact's record; its key is the digest of what it says, so repeats compact away."""
    if fact.kind not in FIELDS:
        raise ValueError(f"unknown kind of fact: {fact.kind}")
    value = dump_json(
        {"kind": fact.kind, **{name: getattr(fact, name) for name in FIELDS[fact.kind]}}
    )
    headers = (
        (str(Header.TYPE), event_type(Topic.FENCES).encode()),
        (str(Header.CONTENT_TYPE), JSON.encode()),
    )
    return OutgoingRecord(Topic.FENCES, _key(value), value, headers)


def decode_fact(record: Record) -> FenceFact | Marker:
    """The fact of a record. Raises ValueError saying what is wrong, quoting nothing."""
    types = [value for name, value in record.headers if name == Header.TYPE]
    if types == [HEARTBEAT.encode()]:
        return Marker.HEARTBEAT
    if record.value is None:
        return Marker.TOMBSTONE
    if types != [event_type(Topic.FENCES).encode()]:
        raise ValueError(f"its type is not {event_type(Topic.FENCES)}")
    if record.key != _key(record.value):
        raise ValueError("its key is not the digest of its value")
    try:
        found = load_json(record.value.decode())
    except ValueError:
        raise ValueError("it is not JSON") from None
    said = found if isinstance(found, dict) else {}
    kind = said.pop("kind", None)
    if not isinstance(kind, str) or kind not in FIELDS:
        raise ValueError("its kind is unknown")
    if set(said) != set(FIELDS[kind]) or not all(map(_is_valid, said, said.values())):
        raise ValueError(f"it does not say what a {kind} says")
    return FenceFact(kind, **said)


def _is_valid(name: str, value: Any) -> bool:
    if name == "until":
        return type(value) is int and 0 <= value <= FOREVER
    return isinstance(value, str) and bool(value)


def _key(value: bytes) -> bytes:
    return hashlib.sha256(value).hexdigest().encode()
