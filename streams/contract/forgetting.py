"""Requests to forget: the plain form, and OpenDSR 2.0's. All problems of the input are `Rejected`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from memory.errors import Reason, Rejected
from memory.model.events import Forget, Selector, SelectorKind, Surroundings
from memory.model.text import checked_text
from memory.model.times import FOREVER
from streams.contract import cloudevents
from streams.contract.cloudevents import Header, check_not_ahead, parse_time
from streams.contract.payloads import check_fields, read_object
from streams.contract.records import Marker, OutgoingRecord, Record, record_key
from streams.contract.signing import SigningKey, verifies
from streams.contract.topics import Topic

EXTENSION = "visual-memory"
"""Under which an OpenDSR request may say more to this memory."""
MAX_SELECTORS_OF_REQUEST = 16
REGULATIONS = ("gdpr", "ccpa")
_REQUEST_ID = re.compile(r"[0-9a-f]{64}")
_REQUIRED = (
    *("regulation", "subject_request_id", "subject_request_type", "subject_identities"),
    "submitted_time",
)
_OPTIONAL = ("api_version", "status_callback_urls", "extensions")
_IDENTITY = {"identity_type", "identity_value", "identity_format"}


@dataclass(frozen=True, slots=True)
class Cancel:
    """A request to forget is not to be carried out. `time` is when the log received this, µs."""

    cancel_id: str
    request_id: str
    time: int


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A request to forget that says when; `due` is what it bears once it is to be carried out."""

    request: Forget
    due: str | None


def decode_forget(
    record: Record, *, clock_skew: int, keys: Sequence[str] = ()
) -> Forget | Scheduled | Cancel | Marker:
    """A request to forget; its id is the record's key, since it is unique and names nobody.

    With `keys`, public ones, it has to be signed by one of them (see `sign_request`).
    """
    event = cloudevents.read(record, Topic.FORGET_REQUEST)
    if isinstance(event, Marker):
        return event
    signature = event.get(Header.SIGNATURE) or ""
    said = signed_part(record.key, record.value)
    if keys and not any(verifies(said, signature, key) for key in keys):
        raise Rejected(
            Reason.INVALID_SIGNATURE,
            f"this memory takes requests only with a {Header.SIGNATURE} by the privacy desk's key; see "
            "docs/forgetting.md",
        )
    check_not_ahead(event.time, record.timestamp, clock_skew)
    body = read_object(record.value or b"", event.content_type)
    request_id = record_key(event.source, event.id).decode()
    if "cancel" in body:
        return Cancel(request_id, _cancelled(body), record.timestamp)
    if "subject_request_type" in body:
        request = _subject_request(body, event.id, request_id, record.timestamp)
    else:
        check_fields(body, required=("selector",), optional=("permanent", "not_before"))
        request = Forget(
            request_id=request_id,
            selector=_selector(body["selector"]),
            time=record.timestamp,
            permanent=_permanent(body),
            not_before=_not_before(body),
        )
    return request if request.not_before is None else Scheduled(request, event.get(Header.DUE))


def _cancelled(body: Mapping[str, Any]) -> str:
    check_fields(body, required=("cancel",))
    found = body["cancel"]
    if not isinstance(found, str) or not _REQUEST_ID.fullmatch(found):
        raise Rejected(
            Reason.INVALID_ID, "cancel must be the id of a request as its receipts name it"
        )
    return found


def _not_before(body: Mapping[str, Any]) -> int | None:
    return _time(body, "not_before") if "not_before" in body else None


def _time(body: Mapping[str, Any], name: str) -> int:
    found = body[name]
    if not isinstance(found, str):
        raise Rejected(Reason.INVALID_TIME, f"{name} must be an RFC 3339 time")
    return parse_time(found, name)


def signed_part(key: bytes | None, value: bytes | None) -> bytes:
    """What a request's signature is over: its record's key, a line feed, its value."""
    return (key or b"") + b"\n" + (value or b"")


def sign_request(record: OutgoingRecord, key: SigningKey) -> OutgoingRecord:
    """The request with its signature, in a header."""
    signature = key.sign(signed_part(record.key, record.value))
    headers = (*record.headers, (str(Header.SIGNATURE), signature.encode()))
    return replace(record, headers=headers)


def check_request(record: OutgoingRecord) -> None:
    """Raises `Rejected` for a request that would be, as it is sent."""
    sent = Record(record.topic, 0, 0, record.key, record.value, record.headers, FOREVER)
    decode_forget(sent, clock_skew=0)


def _subject_request(body: Mapping[str, Any], event_id: str, request_id: str, time: int) -> Forget:
    """OpenDSR 2.0, section 7. Identities are subjects, as the events of images name them."""
    check_fields(body, required=_REQUIRED, optional=_OPTIONAL)
    if body["subject_request_type"] != "erasure":
        raise Rejected(Reason.INVALID_PAYLOAD, "subject_request_type must be erasure here")
    if body["regulation"] not in REGULATIONS:
        names = " or ".join(REGULATIONS)
        raise Rejected(Reason.INVALID_PAYLOAD, f"regulation must be {names}")
    _check_request_id(body["subject_request_id"], event_id)
    submitted = _time(body, "submitted_time")
    said = _extension(body.get("extensions", {}))
    found: list[Selector | Surroundings] = []
    found += [_subject(identity) for identity in _list(body["subject_identities"])]
    found += [_selector(selector) for selector in _list(said.get("selectors", []))]
    selectors = tuple(dict.fromkeys(found))
    if not 1 <= len(selectors) <= MAX_SELECTORS_OF_REQUEST:
        raise Rejected(
            Reason.INVALID_SELECTOR,
            f"{len(selectors)} identities and selectors; 1 to {MAX_SELECTORS_OF_REQUEST} are allowed",
        )
    first, *more = selectors
    return Forget(
        request_id,
        first,
        time,
        _permanent(said),
        tuple(more),
        submitted,
        body["regulation"],
        _not_before(said),
    )


def _check_request_id(found: object, event_id: str) -> None:
    try:
        is_uuid = isinstance(found, str) and UUID(found).version == 4
    except ValueError:
        is_uuid = False
    if not is_uuid:
        raise Rejected(Reason.INVALID_ID, "subject_request_id must be a UUID of version 4")
    if found != event_id:
        raise Rejected(
            Reason.INVALID_ID,
            "ce_id must be the subject_request_id, by which a request is known again",
        )


def _extension(extensions: object) -> Mapping[str, Any]:
    """What the request says to this memory; what it says to others is not looked at."""
    if not isinstance(extensions, dict):
        raise Rejected(Reason.INVALID_PAYLOAD, "extensions must be a JSON object")
    said = extensions.get(EXTENSION, {})
    if not isinstance(said, dict):
        raise Rejected(Reason.INVALID_PAYLOAD, f"extensions: {EXTENSION} must be a JSON object")
    check_fields(said, optional=("selectors", "permanent", "not_before"))
    return said


def _subject(identity: object) -> Selector:
    if not isinstance(identity, dict) or set(identity) != _IDENTITY:
        raise Rejected(
            Reason.INVALID_SELECTOR,
            f"each of subject_identities must have {', '.join(sorted(_IDENTITY))}",
        )
    if identity["identity_format"] != "raw":
        raise Rejected(
            Reason.INVALID_SELECTOR,
            "identity_format must be raw: from a digest nobody can tell which subject is meant",
        )
    value, kind = identity["identity_value"], identity["identity_type"]
    if not isinstance(value, str) or not isinstance(kind, str):
        raise Rejected(Reason.INVALID_SELECTOR, "identity_type and identity_value must be texts")
    checked_text(kind, what="identity_type", reason=Reason.INVALID_SELECTOR, limit=256)
    return Selector(SelectorKind.SUBJECT, value)


def _selector(found: object) -> Selector | Surroundings:
    kinds = ", ".join((*SelectorKind, Surroundings.kind))
    if not isinstance(found, dict) or len(found) != 1:
        raise Rejected(Reason.INVALID_SELECTOR, f"the selector must name exactly one of {kinds}")
    ((kind, value),) = found.items()
    if kind == Surroundings.kind:
        return _surroundings(value)
    if kind not in set(SelectorKind):
        raise Rejected(Reason.INVALID_SELECTOR, f"the selector must name one of {kinds}")
    if not isinstance(value, str):
        raise Rejected(Reason.INVALID_SELECTOR, "what the selector names must be a text")
    return Selector(SelectorKind(kind), value)


def _surroundings(found: object) -> Surroundings:
    what = f"{Surroundings.kind} must be an object of images, an array of ids, and a distance"
    if not isinstance(found, dict) or set(found) != {"images", "distance"}:
        raise Rejected(Reason.INVALID_SELECTOR, what)
    images, distance = found["images"], found["distance"]
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise Rejected(Reason.INVALID_SELECTOR, what)
    if not isinstance(distance, int | float) or isinstance(distance, bool):
        raise Rejected(Reason.INVALID_SELECTOR, what)
    return Surroundings(tuple(images), float(distance))


def _permanent(body: Mapping[str, Any]) -> bool:
    found = body.get("permanent", False)
    if not isinstance(found, bool):
        raise Rejected(Reason.INVALID_PAYLOAD, "permanent must be true or false")
    return found


def _list(found: object) -> list[Any]:
    if not isinstance(found, list) or len(found) > MAX_SELECTORS_OF_REQUEST:
        raise Rejected(
            Reason.INVALID_SELECTOR,
            f"identities and selectors must be arrays of at most {MAX_SELECTORS_OF_REQUEST}",
        )
    return found
