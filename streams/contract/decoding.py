"""Records to values of the domain. All problems of the input are `Rejected`.

An image is not decoded here: that costs, and what is forgotten must cost nothing.
"""

from __future__ import annotations

from typing import TypeVar

from msgspec.json import decode

from memory.errors import Reason, Rejected
from memory.model.events import (
    Correction,
    Ingest,
    LogAddress,
    Prune,
)
from memory.model.text import canonical_json
from memory.model.times import make_stamp
from streams.contract import cloudevents
from streams.contract.cloudevents import (
    RESERVED,
    Envelope,
    Header,
    check_attributes,
    check_not_ahead,
)
from streams.contract.messages import (
    Answer,
    Cancellation,
    ForgottenClaim,
    Receipt,
    Rejection,
)
from streams.contract.payloads import (
    check_fields,
    checked_json,
    payload_digest,
    read_object,
    read_payload,
)
from streams.contract.records import Marker, Record
from streams.contract.strict_json import load_json
from streams.contract.topics import Topic

_T = TypeVar("_T", Answer, Receipt, Cancellation, ForgottenClaim, Rejection)


def decode_ingest(record: Record, topic_id: str, *, clock_skew: int) -> Ingest | Marker:
    """An image to remember; `clock_skew` in µs."""
    event = cloudevents.read(record, Topic.IMAGE_INGEST)
    if isinstance(event, Marker):
        return event
    check_not_ahead(event.time, record.timestamp, clock_skew)
    image_id, label = event.require(Header.SUBJECT), event.require(Header.LABEL)
    subjects = _subjects(event.get(Header.SUBJECTS))
    attributes = {n: text for n, text in event.attributes.items() if n not in RESERVED}
    check_attributes(attributes)
    value = record.value or b""
    payload = read_payload(value, event.content_type, event.get(Header.EMBEDDER))
    digest = payload_digest(payload, value)
    stamp = make_stamp(
        event.time,
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
    check_not_ahead(event.time, record.timestamp, clock_skew)
    image_id = event.require(Header.SUBJECT)
    body = read_object(record.value or b"", event.content_type)
    check_fields(body, optional=("label", "pruned"))
    if len(body) != 1:
        raise Rejected(Reason.INVALID_PAYLOAD, "the JSON object has either a label or pruned")
    told = event.source, event.id, event.type, image_id
    if "pruned" in body:
        pruned = body["pruned"]
        if not isinstance(pruned, bool):
            raise Rejected(Reason.INVALID_PAYLOAD, "pruned must be true or false")
        stamp = make_stamp(event.time, *told, None, None, "pruned" if pruned else "kept")
        return Prune(stamp, image_id, pruned, _address(event, record, topic_id))
    label = body["label"]
    if label is not None and not isinstance(label, str):
        raise Rejected(Reason.INVALID_LABEL, "the label must be a text, or null to withdraw")
    stamp = make_stamp(event.time, *told, label, None, None)
    return Correction(stamp, image_id, label, _address(event, record, topic_id))


def decode_prediction(record: Record) -> Answer | Marker:
    return _read_answer(record, Topic.PREDICTION, Answer)


def decode_receipt(record: Record) -> Receipt | Marker:
    return _read_answer(record, Topic.FORGET_RECEIPT, Receipt)


def decode_cancellation(record: Record) -> Cancellation | Marker:
    return _read_answer(record, Topic.FORGET_RECEIPT, Cancellation)


def decode_forgotten_claim(record: Record) -> ForgottenClaim | Marker:
    return _read_answer(record, Topic.FORGOTTEN_CLAIM, ForgottenClaim)


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


def _address(event: Envelope, record: Record, topic_id: str) -> LogAddress:
    return LogAddress(event.time, topic_id, record.partition, event.key)


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
