"""The CloudEvents attributes of a record: reading them strictly, and writing them.

CloudEvents 1.0 in the binary mode of its Kafka binding.

No detail of a rejection quotes a value, nor the name of an attribute that is not the contract's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType

from memory.errors import Reason, Rejected
from memory.model.events import MAX_ID
from memory.model.text import checked_text
from memory.model.times import FOREVER, SECOND
from streams.contract.records import HEARTBEAT, PASSED_OVER, SWOLLEN, Marker, Record, record_key
from streams.contract.topics import Topic, event_type


class Header(StrEnum):
    """Names of the record headers that have a meaning here; another ``ce_`` one is an attribute."""

    SPECVERSION = "ce_specversion"
    ID = "ce_id"
    SOURCE = "ce_source"
    TYPE = "ce_type"
    TIME = "ce_time"
    CONTENT_TYPE = "content-type"
    SUBJECT = "ce_subject"
    LABEL = "ce_label"
    SUBJECTS = "ce_subjects"
    EMBEDDER = "ce_embedder"
    ITEM = "ce_item"
    K = "ce_k"
    RULE = "ce_rule"
    WHAT_IF = "ce_whatif"
    WHY = "ce_why"
    PRUNING = "ce_pruning"
    MIN_SHARE = "ce_minshare"
    REVIEW = "ce_review"
    LEAST = "ce_least"
    SIGNATURE = "ce_signature"
    DUE = "ce_due"
    AFTER = "ce_after"
    REPLY_PARTITION = "ce_replypartition"
    TIMEOUT = "ce_timeout"
    QUERY_ID = "ce_queryid"


PREFIX = "ce_"
SPECVERSION = "1.0"
MAX_ATTRIBUTES = 64
MAX_ATTRIBUTE = 1024
"""Characters of the longest value."""
NO_ATTRIBUTES: Mapping[str, str] = MappingProxyType({})
RESERVED = frozenset(
    header.removeprefix(PREFIX)
    for header in (
        Header.SPECVERSION,
        Header.ID,
        Header.SOURCE,
        Header.TYPE,
        Header.TIME,
        Header.SUBJECT,
        Header.LABEL,
        Header.SUBJECTS,
        Header.EMBEDDER,
    )
)
"""Names that an image's attributes cannot have."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_NAME = re.compile(r"[a-z0-9]+")
_OURS = frozenset(map(str, Header))
_TYPE = re.compile(r"visual-memory\.([a-z-]+)\.v[0-9]+")
_TIME = re.compile(
    # Of hours up to 23: later versions of Python take 24.
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt](?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?"
    r"(?:[Zz]|[+-][0-9]{2}:[0-5][0-9])"
)
_CORE = tuple(map(str, (Header.SPECVERSION, Header.ID, Header.SOURCE, Header.TYPE, Header.TIME)))
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every event says about itself, and its record's key.

    `attributes` are the other ones, without ``ce_``.
    """

    key: str
    id: str
    source: str
    type: str
    time: int
    content_type: str | None
    attributes: Mapping[str, str]

    def get(self, header: Header) -> str | None:
        return self.attributes.get(header.removeprefix(PREFIX))

    def require(self, header: Header) -> str:
        value = self.get(header)
        if value is None:
            raise Rejected(Reason.MISSING_HEADER, f"the header {header} is missing")
        return value


def read(record: Record, topic: Topic) -> Envelope | Marker:
    """The envelope of an event on `topic`, or a marker. Raises `Rejected`."""
    if not record.value and (marker := _marker(record)):
        return marker
    headers = _texts(record)
    content_type = headers.pop(Header.CONTENT_TYPE, None)
    if content_type and content_type.lower().startswith("application/cloudevents"):
        raise Rejected(
            Reason.UNKNOWN_CONTENT_TYPE,
            "send the event in binary mode: its attributes as ce_ headers, its data as the value",
        )
    try:
        specversion, event_id, source, type_, time = (headers.pop(header) for header in _CORE)
    except KeyError as missing:
        raise Rejected(Reason.MISSING_HEADER, f"the header {missing.args[0]} is missing") from None
    if specversion != SPECVERSION:
        raise Rejected(Reason.UNKNOWN_VERSION, f"{Header.SPECVERSION} must be {SPECVERSION}")
    _check_type(type_, topic)
    checked_text(event_id, what=Header.ID, reason=Reason.INVALID_ID, limit=MAX_ID)
    checked_text(source, what=Header.SOURCE, reason=Reason.INVALID_SOURCE, limit=MAX_ID)
    key = record_key(source, event_id)
    if record.key != key:
        raise Rejected(
            Reason.WRONG_KEY,
            "the record's key must be the hex SHA-256 of ce_source, a NUL byte and ce_id",
        )
    attributes = {name.removeprefix(PREFIX): text for name, text in headers.items()}
    return Envelope(
        key.decode(), event_id, source, type_, parse_time(time), content_type, attributes
    )


def _marker(record: Record) -> Marker | None:
    """What a record without a value is, if it is no event. Raises `Rejected`."""
    names = {name for name, _ in record.headers}
    if (str(Header.TYPE), HEARTBEAT.encode()) in record.headers:
        return Marker.HEARTBEAT
    if PASSED_OVER in names:
        return Marker.GAP
    if SWOLLEN in names:
        raise Rejected(
            Reason.IMAGE_TOO_LARGE,
            "the record came in a batch that is too large once it is decompressed; send less at once",
        )
    return Marker.TOMBSTONE if record.value is None else None


def _texts(record: Record) -> dict[str, str]:
    """The headers that are the contract's or attributes; others are ignored."""
    texts: dict[str, str] = {}
    for name, value in record.headers:
        if name not in _OURS:
            if not name.startswith(PREFIX):
                continue
            if not is_name(name.removeprefix(PREFIX)):
                raise Rejected(
                    Reason.INVALID_HEADER,
                    "the name of a ce_ header has more than lower-case letters and digits after ce_",
                )
        if name in texts:
            raise Rejected(Reason.REPEATED_HEADER, f"{_shown(name)} is there more than once")
        try:
            texts[name] = (value or b"").decode()
        except UnicodeDecodeError:
            raise Rejected(Reason.INVALID_HEADER, f"{_shown(name)} is not UTF-8") from None
        if value is None:
            raise Rejected(Reason.INVALID_HEADER, f"{_shown(name)} has no value")
    return texts


def _shown(name: str) -> str:
    """A header's name, if it is one of the contract's: a stranger's may hold anything."""
    return f"the header {name}" if name in _OURS else "a ce_ header"


def is_name(name: str) -> bool:
    """Whether CloudEvents allows this name of an attribute."""
    return bool(_NAME.fullmatch(name))


def _check_type(type_: str, topic: Topic) -> None:
    wanted = event_type(topic)
    if type_ == wanted:
        return
    named = _TYPE.fullmatch(type_)
    if named and named[1] == topic:
        raise Rejected(Reason.UNKNOWN_VERSION, f"this memory takes {wanted} only")
    raise Rejected(Reason.UNKNOWN_TYPE, f"this topic takes events of the type {wanted}")


def write(
    type_: str,
    source: str,
    event_id: str,
    time: int,
    content_type: str | None,
    attributes: Mapping[str, str],
) -> tuple[tuple[str, bytes], ...]:
    """The headers of an event; `attributes` by full header name. Raises `Rejected`."""
    checked_text(event_id, what="the event's id", reason=Reason.INVALID_ID, limit=MAX_ID)
    checked_text(source, what="the source", reason=Reason.INVALID_SOURCE, limit=MAX_ID)
    headers: dict[str, str] = {
        Header.SPECVERSION: SPECVERSION,
        Header.ID: event_id,
        Header.SOURCE: source,
        Header.TYPE: type_,
        Header.TIME: format_time(time),
        **attributes,
    }
    if content_type:
        headers[Header.CONTENT_TYPE] = content_type
    try:
        return tuple((str(name), text.encode()) for name, text in headers.items())
    except UnicodeEncodeError:
        raise Rejected(Reason.INVALID_HEADER, "an attribute has a lone surrogate") from None


def parse_time(text: str, what: str = Header.TIME) -> int:
    """µs of an RFC 3339 time with its offset; digits below µs are cut. Raises `Rejected`, which says `what`."""
    if not _TIME.fullmatch(text):
        raise Rejected(
            Reason.INVALID_TIME, f"{what} must be an RFC 3339 time with its offset from UTC"
        )
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        raise Rejected(Reason.INVALID_TIME, f"{what} names no moment") from None
    return checked_time((moment - EPOCH) // _MICROSECOND)


def format_time(time: int) -> str:
    """RFC 3339 in UTC, with µs. Raises `Rejected`."""
    moment = EPOCH + timedelta(microseconds=checked_time(time))
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def checked_time(time: int) -> int:
    """The time, unless a stamp could not hold it; the last one is the permanent barrier's."""
    if not 0 <= time < FOREVER:
        raise Rejected(Reason.INVALID_TIME, "the time must be from 1970 to November 2286")
    return time


def check_not_ahead(time: int, log_time: int, skew: int) -> None:
    """Raises `Rejected` for a time of more than `skew` after the log's, all µs."""
    if time > log_time + skew:
        raise Rejected(
            Reason.TIME_AHEAD,
            f"{Header.TIME} is {(time - log_time) / SECOND:.0f} s ahead of the log's clock; at most "
            f"{skew / SECOND:g} s are allowed",
        )


def check_attributes(attributes: Mapping[str, str]) -> None:
    """Raises `Rejected` for attributes that an event cannot have."""
    if len(attributes) > MAX_ATTRIBUTES:
        raise Rejected(
            Reason.INVALID_HEADER,
            f"{len(attributes)} attributes; at most {MAX_ATTRIBUTES} are allowed",
        )
    for name, text in attributes.items():
        if not is_name(name):
            raise Rejected(
                Reason.INVALID_HEADER,
                "an attribute's name has more than lower-case letters and digits",
            )
        if len(text) > MAX_ATTRIBUTE:
            raise Rejected(
                Reason.INVALID_HEADER,
                f"an attribute has {len(text)} characters; at most {MAX_ATTRIBUTE} are allowed",
            )
