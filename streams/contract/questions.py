"""Questions: their headers, and records to values. All problems of the input are `Rejected`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from msgspec import Struct, convert

from memory.errors import Reason, Rejected
from memory.model.answers import Position
from memory.model.events import MAX_ID, Payload, Selector, SelectorKind
from memory.model.questions import (
    DEFAULT_LISTED,
    NOTHING_SUPPOSED,
    About,
    Factors,
    ItemRef,
    Query,
    Review,
    Rule,
    WhatIf,
)
from memory.model.reliability import HARD_FROM, Pruning
from memory.model.text import canonical_json, checked_text
from memory.model.times import microseconds
from streams.contract import cloudevents
from streams.contract.cloudevents import Envelope, Header
from streams.contract.messages import (
    DEFAULT_K,
    DEFAULT_TIMEOUT,
    MAX_AFTER,
    MAX_TIMEOUT,
    QueryEvent,
)
from streams.contract.payloads import read_payload
from streams.contract.records import Marker, Record
from streams.contract.strict_json import load_json
from streams.contract.topics import Topic

_WHOLE = re.compile(r"[0-9]{1,4}")
_PARTITION = re.compile(r"[0-9]{1,9}")
_TIMEOUT = re.compile(r"[0-9]{1,3}(\.[0-9]{1,6})?")
_SHARE = re.compile(r"[01](\.[0-9]{1,400})?")


class _Weights(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    images: Mapping[str, float] = {}
    labels: Mapping[str, float] = {}


class _Supposed(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    without: tuple[dict[SelectorKind, str], ...] = ()
    weights: _Weights = _Weights()
    plus: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()


def write_what_if(what_if: WhatIf) -> str:
    """JSON. Selectors are written as in a forget-request: ``{"subject": "customer-4"}``."""
    supposed = _Supposed(
        tuple({selector.kind: selector.value} for selector in what_if.without),
        _Weights(what_if.weights.images, what_if.weights.labels),
        what_if.plus,
        what_if.minus,
    )
    return canonical_json(supposed).decode()


def read_what_if(text: str) -> WhatIf:
    """Raises `Rejected`; nothing in it is passed over."""
    try:
        found = convert(load_json(text), _Supposed)
        if not all(len(named) == 1 for named in found.without):
            raise ValueError("a selector names one thing")
    except ValueError:
        raise Rejected(
            Reason.INVALID_HEADER,
            f"{Header.WHAT_IF} must be a JSON object with some of: without (an array of selectors, "
            'each as {"label": "cat"}), weights (of images and labels, numbers by name), plus and '
            "minus (arrays of image ids)",
        ) from None
    return WhatIf(
        tuple(Selector(kind, name) for named in found.without for kind, name in named.items()),
        Factors(found.weights.images, found.weights.labels),
        found.plus,
        found.minus,
    )


def as_rule(name: str) -> Rule:
    """The rule of this name. Raises `Rejected`."""
    if name not in set(Rule):
        raise Rejected(Reason.UNKNOWN_RULE, f"the rule must be one of {', '.join(Rule)}")
    return Rule(name)


def as_pruning(name: str | None) -> Pruning | None:
    """The way of this name. Raises `Rejected`."""
    if name is not None and name not in set(Pruning):
        raise Rejected(Reason.UNKNOWN_PRUNING, f"pruning must be one of {', '.join(Pruning)}")
    return None if name is None else Pruning(name)


def as_share(text: str | None) -> float | None:
    """The number that it says, where it says one. Raises `Rejected`."""
    if text is None:
        return None
    if not _SHARE.fullmatch(text):
        raise Rejected(
            Reason.INVALID_THRESHOLD, f"{Header.MIN_SHARE} must be a number from 0 to 1, as 0.6"
        )
    return float(text)


def is_true(text: str | None, header: Header) -> bool:
    if text not in (None, "true", "false"):
        raise Rejected(Reason.INVALID_HEADER, f"{header} must be true or false")
    return text == "true"


def decode_query(record: Record, *, partitions: int) -> QueryEvent | Marker:
    """A question; `partitions` of the prediction topic bound where it can be answered.

    Its topic is not compacted, so a question without a value is no tombstone: it asks by item.
    """
    if record.value is None and any(
        name.startswith(cloudevents.PREFIX) for name, _ in record.headers
    ):
        record = replace(record, value=b"")
    event = cloudevents.read(record, Topic.QUERY)
    if isinstance(event, Marker):
        return event
    reply = _reply_partition(event.require(Header.REPLY_PARTITION), partitions)
    if reply is None:
        raise Rejected(
            Reason.INVALID_HEADER,
            f"{Header.REPLY_PARTITION} must be a partition of the prediction topic, "
            f"0 to {partitions - 1}",
        )
    timeout = event.attributes.get("timeout", str(DEFAULT_TIMEOUT))
    if not _TIMEOUT.fullmatch(timeout) or not 0 < float(timeout) <= MAX_TIMEOUT:
        raise Rejected(
            Reason.INVALID_HEADER,
            f"{Header.TIMEOUT} must be seconds, more than 0 and at most {MAX_TIMEOUT:g}",
        )
    return QueryEvent(
        source=event.source,
        query=_query(record, event) if event.get(Header.REVIEW) is None else _review(record, event),
        query_id=event.id,
        reply_partition=reply,
        after=_after(event.get(Header.AFTER)),
        deadline=record.timestamp + microseconds(float(timeout)),
    )


def _query(record: Record, event: Envelope) -> Query:
    payload: Payload | ItemRef
    if (item := event.get(Header.ITEM)) is None:
        payload = read_payload(record.value or b"", event.content_type, event.get(Header.EMBEDDER))
    elif record.value:
        raise Rejected(Reason.INVALID_PAYLOAD, f"give either a value or {Header.ITEM}")
    else:
        payload = ItemRef(item)
    rule, supposed = map(event.get, (Header.RULE, Header.WHAT_IF))
    return Query(
        payload,
        k=_whole(event, Header.K, DEFAULT_K),
        rule=Rule.RANK if rule is None else as_rule(rule),
        what_if=NOTHING_SUPPOSED if supposed is None else read_what_if(supposed),
        why=is_true(event.get(Header.WHY), Header.WHY),
        pruning=as_pruning(event.get(Header.PRUNING)),
        min_share=as_share(event.get(Header.MIN_SHARE)),
    )


def _review(record: Record, event: Envelope) -> Review:
    about = event.require(Header.REVIEW)
    if about not in set(About):
        raise Rejected(Reason.INVALID_HEADER, f"{Header.REVIEW} must be one of {', '.join(About)}")
    if record.value:
        raise Rejected(Reason.INVALID_PAYLOAD, f"with {Header.REVIEW} there must be no value")
    return Review(
        About(about),
        count=_whole(event, Header.K, DEFAULT_LISTED),
        least=_whole(event, Header.LEAST, HARD_FROM, Reason.INVALID_THRESHOLD),
        image_id=event.get(Header.ITEM),
    )


def _whole(event: Envelope, header: Header, default: int, reason: Reason = Reason.INVALID_K) -> int:
    text = event.get(header)
    if text is None:
        return default
    if not _WHOLE.fullmatch(text):
        raise Rejected(reason, f"{header} must be a whole number of at most four digits")
    return int(text)


def reply_address(record: Record, *, partitions: int) -> tuple[str, int] | None:
    """(query id, reply partition) if a question that was rejected says who asks, else None."""

    def only(header: Header) -> str | None:
        values = [value for name, value in record.headers if name == header]
        if len(values) != 1 or values[0] is None:
            return None
        try:
            return values[0].decode()
        except UnicodeDecodeError:
            return None

    query_id, partition = only(Header.ID), only(Header.REPLY_PARTITION)
    if query_id is None or partition is None:
        return None
    try:
        checked_text(query_id, what=Header.ID, reason=Reason.INVALID_ID, limit=MAX_ID)
    except Rejected:
        return None
    reply = _reply_partition(partition, partitions)
    return None if reply is None else (query_id, reply)


def _after(text: str | None) -> tuple[Position, ...]:
    if text is None:
        return ()
    try:
        found = load_json(text)
        if not isinstance(found, list) or len(found) > MAX_AFTER:
            raise ValueError("no list")
        return convert(found, tuple[Position, ...])
    except ValueError:
        raise Rejected(
            Reason.INVALID_HEADER,
            f"{Header.AFTER} must be a JSON array of at most {MAX_AFTER} positions: "
            "topic, topic_id, partition, offset",
        ) from None


def _reply_partition(text: str, partitions: int) -> int | None:
    return int(text) if _PARTITION.fullmatch(text) and int(text) < partitions else None
