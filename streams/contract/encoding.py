"""Values of the domain to records. What the memory would reject is `Rejected` here already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from memory.errors import Reason, Rejected
from memory.model.answers import Message, Position
from memory.model.events import Correction, Ingest, Payload, Prune, Selector, Surroundings
from memory.model.questions import ItemRef, Query, Review
from memory.model.text import canonical_json
from memory.model.times import make_stamp, now_us
from streams.contract import cloudevents
from streams.contract.cloudevents import NO_ATTRIBUTES, RESERVED, Header, check_attributes
from streams.contract.messages import (
    DEFAULT_TIMEOUT,
    MAX_TIMEOUT,
    Answer,
    Cancellation,
    ForgottenClaim,
    KeyChange,
    Receipt,
    Rejection,
)
from streams.contract.payloads import write_payload
from streams.contract.questions import write_what_if
from streams.contract.records import (
    HEARTBEAT,
    HEARTBEAT_ID,
    JSON,
    OCTETS,
    SOURCE,
    OutgoingRecord,
    Record,
    record_key,
)
from streams.contract.topics import Topic, event_type


def encode_ingest(
    *,
    source: str,
    event_id: str,
    time: int,
    image_id: str,
    label: str,
    payload: Payload,
    subjects: Sequence[str] = (),
    attributes: Mapping[str, str] = NO_ATTRIBUTES,
    content_type: str = OCTETS,
) -> OutgoingRecord:
    """An image, checked as far as its record will be; `content_type` is an image's only."""
    value, kind, extra = write_payload(payload, content_type)
    Ingest(
        stamp=make_stamp(cloudevents.checked_time(time)),
        image_id=image_id,
        label=label,
        source=source,
        payload=payload,
        payload_digest="",
        subjects=tuple(subjects),
    )
    check_attributes(attributes)
    if not RESERVED.isdisjoint(attributes):
        raise Rejected(Reason.INVALID_HEADER, f"attributes cannot be named {sorted(RESERVED)}")
    extra |= {cloudevents.PREFIX + name: text for name, text in attributes.items()}
    extra |= {Header.SUBJECT: image_id, Header.LABEL: label}
    if subjects:
        extra[Header.SUBJECTS] = canonical_json(list(subjects)).decode()
    return _record(Topic.IMAGE_INGEST, source, event_id, time, value, kind, extra)


def encode_correction(
    *, source: str, event_id: str, time: int, image_id: str, label: str | None
) -> OutgoingRecord:
    Correction(make_stamp(cloudevents.checked_time(time)), image_id, label)
    extra = {Header.SUBJECT: image_id}
    value = canonical_json({"label": label})
    return _record(Topic.LABEL_CORRECTION, source, event_id, time, value, JSON, extra)


def encode_pruning(
    *, source: str, event_id: str, time: int, image_id: str, pruned: bool
) -> OutgoingRecord:
    """Whether an image is left out of all answers; on the topic of what people say of images."""
    Prune(make_stamp(cloudevents.checked_time(time)), image_id, pruned)
    value = canonical_json({"pruned": pruned})
    extra = {Header.SUBJECT: image_id}
    return _record(Topic.LABEL_CORRECTION, source, event_id, time, value, JSON, extra)


def encode_forget(
    *,
    source: str,
    event_id: str,
    time: int,
    selector: Selector | Surroundings,
    permanent: bool = False,
    not_before: int | None = None,
) -> OutgoingRecord:
    named = (
        {"images": list(selector.images), "distance": selector.distance}
        if isinstance(selector, Surroundings)
        else selector.value
    )
    body: dict[str, Any] = {"selector": {str(selector.kind): named}}
    body["permanent"] = permanent
    if not_before is not None:
        body["not_before"] = cloudevents.format_time(not_before)
    value = canonical_json(body)
    return _record(Topic.FORGET_REQUEST, source, event_id, time, value, JSON, {})


def encode_cancel(*, source: str, event_id: str, time: int, request_id: str) -> OutgoingRecord:
    """That a request, by the id that its receipts name, is not to be carried out."""
    value = canonical_json({"cancel": request_id})
    return _record(Topic.FORGET_REQUEST, source, event_id, time, value, JSON, {})


def encode_subject_request(
    *, source: str, event_id: str, time: int, request: Mapping[str, Any]
) -> OutgoingRecord:
    """A data subject's request to be forgotten as OpenDSR 2.0 writes it (JSON)."""
    return _record(Topic.FORGET_REQUEST, source, event_id, time, canonical_json(request), JSON, {})


def encode_query(
    *,
    source: str,
    event_id: str,
    time: int,
    query: Query | Review,
    reply_partition: int,
    after: Sequence[Position] = (),
    timeout: float = DEFAULT_TIMEOUT,
) -> OutgoingRecord:
    """A question, or a request for review; `timeout` in seconds from when the log receives it."""
    if not 0 < timeout <= MAX_TIMEOUT:
        raise Rejected(
            Reason.INVALID_HEADER,
            f"the timeout must be more than 0 and at most {MAX_TIMEOUT:g} seconds",
        )
    value, kind, extra = _asked(query) if isinstance(query, Query) else _reviewed(query)
    extra |= {
        Header.REPLY_PARTITION: str(reply_partition),
        Header.TIMEOUT: f"{max(timeout, 1e-6):.6f}",
    }
    if after:
        extra[Header.AFTER] = canonical_json(after).decode()
    return _record(Topic.QUERY, source, event_id, time, value, kind, extra)


def _asked(query: Query) -> tuple[bytes, str | None, dict[str, str]]:
    kind: str | None
    if isinstance(query.payload, ItemRef):
        value, kind, extra = b"", None, {str(Header.ITEM): query.payload.image_id}
    else:
        value, kind, extra = write_payload(query.payload, OCTETS)
    extra |= {Header.K: str(query.k), Header.RULE: str(query.rule)}
    if query.what_if:
        extra[Header.WHAT_IF] = write_what_if(query.what_if)
    if query.why:
        extra[Header.WHY] = "true"
    if query.pruning is not None:
        extra[Header.PRUNING] = str(query.pruning)
    if query.min_share is not None:
        extra[Header.MIN_SHARE] = np.format_float_positional(query.min_share, trim="-")
    return value, kind, extra


def _reviewed(review: Review) -> tuple[bytes, str | None, dict[str, str]]:
    extra = {
        str(Header.REVIEW): str(review.about),
        Header.K: str(review.count),
        Header.LEAST: str(review.least),
    }
    if review.image_id is not None:
        extra[Header.ITEM] = review.image_id
    return b"", None, extra


def encode_prediction(answer: Answer, reply_partition: int) -> OutgoingRecord:
    extra = {Header.QUERY_ID: answer.query}
    return _memory_event(Topic.PREDICTION, answer.query, answer, extra, reply_partition)


def encode_receipt(receipt: Receipt) -> OutgoingRecord:
    return _memory_event(Topic.FORGET_RECEIPT, f"{receipt.request}.{receipt.stage}", receipt)


def encode_cancellation(said: Cancellation) -> OutgoingRecord:
    return _memory_event(Topic.FORGET_RECEIPT, f"{said.cancel}.{said.outcome}", said)


def encode_forgotten_claim(event_id: str, said: ForgottenClaim) -> OutgoingRecord:
    """`event_id` is the key of the event that brought it, so that it is one however often it is told."""
    return _memory_event(Topic.FORGOTTEN_CLAIM, event_id, said)


def encode_key_change(change: KeyChange) -> OutgoingRecord:
    return _memory_event(Topic.FORGET_RECEIPT, f"key.{change.sequence}", change)


def encode_rejection(
    record: Record, why: Rejected, *, admitted_after: int | None = None
) -> OutgoingRecord:
    """Where and why; nothing of the record itself."""
    said = Rejection(
        str(why.reason), why.detail, record.topic, record.partition, record.offset, admitted_after
    )
    place = f"{record.topic}:{record.partition}:{record.offset}"
    return _memory_event(Topic.REJECTED, place, said)


def encode_heartbeat(topic: Topic, partition: int) -> OutgoingRecord:
    """A record whose only purpose is that its partition never stands still."""
    headers = cloudevents.write(HEARTBEAT, SOURCE, HEARTBEAT_ID, now_us(), None, {})
    return OutgoingRecord(topic, record_key(SOURCE, HEARTBEAT_ID), b"", headers, partition)


def _record(
    topic: Topic,
    source: str,
    event_id: str,
    time: int,
    value: bytes,
    content_type: str | None,
    extra: Mapping[Any, str],
) -> OutgoingRecord:
    headers = cloudevents.write(event_type(topic), source, event_id, time, content_type, extra)
    return OutgoingRecord(topic, record_key(source, event_id), value, headers)


def _memory_event(
    topic: Topic,
    event_id: str,
    body: Message,
    extra: Mapping[Any, str] = NO_ATTRIBUTES,
    partition: int | None = None,
) -> OutgoingRecord:
    headers = cloudevents.write(event_type(topic), SOURCE, event_id, now_us(), JSON, extra)
    value = canonical_json(body)
    return OutgoingRecord(topic, record_key(SOURCE, event_id), value, headers, partition)
