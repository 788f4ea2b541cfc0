"""Records to values of the domain. All problems of the input are `Rejected`.

An image is not decoded here: that costs, and what is forgotten must cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from msgspec.json import decode

from memory.errors import Reason, Rejected
from memory.model.events import (
    Correction,
    Forget,
    Ingest,
    LogAddress,
    Prune,
    Selector,
    SelectorKind,
)
from memory.model.text import canonical_json
from memory.model.times import SECOND, make_stamp
from streams.contract import cloudevents
from streams.contract.cloudevents import RESERVED, Envelope, Header, check_attributes
from streams.contract.messages import (
    Answer,
    Receipt,
    Rejection,
)
from streams.contract.payloads import checked_json, payload_digest, read_object, read_payload
from streams.contract.records import Marker, Record, record_key
from streams.contract.strict_json import load_json
from streams.contract.topics import Topic

_T = TypeVar("_T", Answer, Receipt, Rejection)


def decode_ingest(record: Record, topic_id: str, *, clock_skew: int) -> Ingest | Marker:
    """An image to remember; `clock_skew` in µs."""
    event = cloudevents.read(record, Topic.IMAGE_INGEST)
    if isinstance(event, Marker):
        return event
    time = _admitted(event, record, clock_skew)
    image_id, label = event.require(Header.SUBJECT), event.require(Header.LABEL)
    subjects = _subjects(event.get(Header.SUBJECTS))
    attributes = {n: text for n, text in event.attributes.items() if n not in RESERVED}
    check_attributes(attributes)
    value = record.value or b""
    payload = read_payload(value, event.content_type, event.get(Header.EMBEDDER))
    digest = payload_digest(payload, value)
    stamp = make_stamp(
        time,
        event.source,
        event.id,
        event.type,
        image_id,
        label,
        canonical_json(subjects).decode(),
        digest,
    )
    return Ingest(
        stamp=stamp,
        image_id=image_id,
        label=label,
        source=event.source,
        payload=payload,
        payload_digest=digest,
        subjects=subjects,
        attributes=attributes,
        address=_address(event, record, topic_id),
    )


def decode_correction(
    record: Record, topic_id: str, *, clock_skew: int
) -> Correction | Prune | Marker:
    """What a person says of an image, its label or that it is pruned; `clock_skew` in µs."""
    event = cloudevents.read(record, Topic.LABEL_CORRECTION)
    if isinstance(event, Marker):
        return event
    time = _admitted(event, record, clock_skew)
    image_id = event.require(Header.SUBJECT)
    body = _body(event, record, optional=("label", "pruned"))
    if len(body) != 1:
        raise Rejected(Reason.INVALID_PAYLOAD, "the JSON object has either a label or pruned")
    told = event.source, event.id, event.type, image_id
    if "pruned" in body:
        pruned = body["pruned"]
        if not isinstance(pruned, bool):
            raise Rejected(Reason.INVALID_PAYLOAD, "pruned must be true or false")
        stamp = make_stamp(time, *told, None, None, "pruned" if pruned else "kept")
        return Prune(stamp, image_id, pruned, _address(event, record, topic_id))
    label = body["label"]
    if label is not None and not isinstance(label, str):
        raise Rejected(Reason.INVALID_LABEL, "the label must be a text, or null to withdraw")
    stamp = make_stamp(time, *told, label, None, None)
    return Correction(stamp, image_id, label, _address(event, record, topic_id))


def decode_forget(record: Record, *, clock_skew: int) -> Forget | Marker:
    """A request to forget; its id is the record's key, since it is unique and names nobody."""
    event = cloudevents.read(record, Topic.FORGET_REQUEST)
    if isinstance(event, Marker):
        return event
    _admitted(event, record, clock_skew)
    body = _body(event, record, required=("selector",), optional=("permanent",))
    selector, permanent = body["selector"], body.get("permanent", False)
    if not isinstance(permanent, bool):
        raise Rejected(Reason.INVALID_PAYLOAD, "permanent must be true or false")
    kinds = ", ".join(SelectorKind)
    if not isinstance(selector, dict) or len(selector) != 1:
        raise Rejected(Reason.INVALID_SELECTOR, f"the selector must name exactly one of {kinds}")
    ((kind, value),) = selector.items()
    if kind not in set(SelectorKind):
        raise Rejected(Reason.INVALID_SELECTOR, f"the selector must name one of {kinds}")
    if not isinstance(value, str):
        raise Rejected(Reason.INVALID_SELECTOR, "what the selector names must be a text")
    return Forget(
        request_id=record_key(event.source, event.id).decode(),
        selector=Selector(SelectorKind(kind), value),
        time=record.timestamp,
        permanent=permanent,
    )


def decode_prediction(record: Record) -> Answer | Marker:
    return _read_answer(record, Topic.PREDICTION, Answer)


def decode_receipt(record: Record) -> Receipt | Marker:
    return _read_answer(record, Topic.FORGET_RECEIPT, Receipt)


def decode_rejection(record: Record) -> Rejection | Marker:
    return _read_answer(record, Topic.REJECTED, Rejection)


def _read_answer(record: Record, topic: Topic, shape: type[_T]) -> _T | Marker:
    """What the memory said on a topic."""
    event = cloudevents.read(record, topic)
    if isinstance(event, Marker):
        return event
    try:
        return decode(checked_json(record.value or b"", event.content_type), type=shape)
    except (ValueError, RecursionError):
        raise Rejected(Reason.INVALID_PAYLOAD, f"the value is no {topic}") from None


def _admitted(event: Envelope, record: Record, clock_skew: int) -> int:
    if event.time > record.timestamp + clock_skew:
        raise Rejected(
            Reason.TIME_AHEAD,
            f"{Header.TIME} is {(event.time - record.timestamp) / SECOND:.0f} s ahead of the "
            f"log's clock; at most {clock_skew / SECOND:g} s are allowed",
        )
    return event.time


def _address(event: Envelope, record: Record, topic_id: str) -> LogAddress:
    key = record_key(event.source, event.id).decode()
    return LogAddress(event.time, topic_id, record.partition, key)


def _body(
    event: Envelope, record: Record, *, required: Sequence[str] = (), optional: Sequence[str] = ()
) -> dict[str, Any]:
    """The JSON object, with no other fields: a misspelt one must not be passed over."""
    body = read_object(record.value or b"", event.content_type)
    if not set(required) <= set(body) <= {*required, *optional}:
        fields = [*required, *(f"{name} (optional)" for name in optional)]
        raise Rejected(Reason.INVALID_PAYLOAD, f"the JSON object's fields are {', '.join(fields)}")
    return body


def _subjects(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    try:
        found = load_json(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(subject, str) for subject in found):
        raise Rejected(Reason.INVALID_SUBJECT, f"{Header.SUBJECTS} must be a JSON array of strings")
    return tuple(found)
