"""What a record's value holds: an image's bytes, a claim on them, a vector's elements, or JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from memory.claims.addresses import checked_claim
from memory.errors import Reason, Rejected
from memory.model.events import MAX_ID, ClaimPayload, ImagePayload, Payload, VectorPayload
from memory.model.text import canonical_json, checked_text
from memory.model.vectors import Vector, check_direction
from streams.contract.cloudevents import Header
from streams.contract.records import CLAIM, JSON, OCTETS, VECTOR
from streams.contract.strict_json import load_json

FLOAT32 = np.dtype("<f4")


def read_payload(value: bytes, content_type: str | None, embedder: str | None) -> Payload:
    """The image, claim or vector of a value; `embedder` is the header that a vector needs."""
    if content_type is None:
        raise Rejected(Reason.MISSING_HEADER, f"the header {Header.CONTENT_TYPE} is missing")
    kind = media_type(content_type)
    if not value:
        raise Rejected(Reason.EMPTY_PAYLOAD, "the record's value is empty")
    if kind == OCTETS or kind.startswith("image/"):
        return ImagePayload(value)
    if kind == CLAIM:
        return read_claim(value)
    if kind != VECTOR:
        raise Rejected(
            Reason.UNKNOWN_CONTENT_TYPE,
            f"{Header.CONTENT_TYPE} must be image/*, {OCTETS}, {VECTOR} or {CLAIM}",
        )
    if embedder is None:
        raise Rejected(
            Reason.MISSING_HEADER, f"a vector needs the header {Header.EMBEDDER}: what made it"
        )
    if len(value) % FLOAT32.itemsize:
        raise Rejected(
            Reason.INVALID_VECTOR,
            f"a vector is little-endian float32, 4 bytes an element; {len(value)} bytes came",
        )
    elements = np.frombuffer(value, FLOAT32).astype(np.float32, copy=False)
    return VectorPayload(checked_vector(elements), checked_embedder(embedder))


def write_payload(payload: Payload, content_type: str) -> tuple[bytes, str, dict[str, str]]:
    """Value, content type and headers of a payload; `content_type` is an image's only."""
    if isinstance(payload, ImagePayload):
        if not payload.data:
            raise Rejected(Reason.EMPTY_PAYLOAD, "the image is empty")
        kind = media_type(content_type)
        if kind != OCTETS and not kind.startswith("image/"):
            raise Rejected(
                Reason.UNKNOWN_CONTENT_TYPE, f"an image's content type is image/* or {OCTETS}"
            )
        return payload.data, content_type, {}
    if isinstance(payload, ClaimPayload):
        checked_claim(payload)
        return canonical_json({"uri": payload.uri, "sha256": payload.digest}), CLAIM, {}
    with np.errstate(over="ignore"):  # what is too large for float32 is told as not finite
        elements = np.asarray(payload.vector).astype(FLOAT32)
    checked_vector(elements)
    embedder = checked_embedder(payload.embedder)
    return elements.tobytes(), VECTOR, {str(Header.EMBEDDER): embedder}


def payload_digest(payload: Payload, value: bytes) -> str:
    """SHA-256, hex, of what an event brings: of the image, also where a claim stands for it."""
    if isinstance(payload, ClaimPayload):
        return payload.digest
    return hashlib.sha256(value).hexdigest()


def read_claim(value: bytes) -> ClaimPayload:
    """The claim in a value. Raises `Rejected`."""
    match _object(value):
        case {"uri": str(uri), "sha256": str(digest), **others} if not others:
            return checked_claim(ClaimPayload(uri, digest))
    raise Rejected(
        Reason.INVALID_CLAIM, "a claim is a JSON object of two texts, uri and sha256, and no more"
    )


def checked_vector(vector: Vector) -> Vector:
    """The vector, if it has one axis and a direction. Raises `Rejected`."""
    if vector.ndim != 1:
        raise Rejected(Reason.INVALID_VECTOR, f"the vector has {vector.ndim} axes, not one")
    if not vector.size:
        raise Rejected(Reason.EMPTY_PAYLOAD, "the vector is empty")
    check_direction(vector)
    return vector


def checked_embedder(embedder: str) -> str:
    return checked_text(embedder, what="the embedder", reason=Reason.INVALID_HEADER, limit=MAX_ID)


def media_type(content_type: str) -> str:
    """Type and subtype in lower case, without parameters."""
    return content_type.partition(";")[0].strip().lower()


def checked_json(value: bytes, content_type: str | None) -> bytes:
    """A record's value, which its header says to be JSON."""
    if content_type is None:
        raise Rejected(Reason.MISSING_HEADER, f"the header {Header.CONTENT_TYPE} is missing")
    if media_type(content_type) != JSON:
        raise Rejected(Reason.UNKNOWN_CONTENT_TYPE, f"{Header.CONTENT_TYPE} must be {JSON}")
    if not value:
        raise Rejected(Reason.EMPTY_PAYLOAD, "the record's value is empty")
    return value


def read_object(value: bytes, content_type: str | None) -> dict[str, Any]:
    """The JSON object that a record's value is."""
    return _object(checked_json(value, content_type))


def _object(value: bytes) -> dict[str, Any]:
    try:
        found = load_json(value.decode())
    except ValueError:
        raise Rejected(Reason.INVALID_PAYLOAD, "the record's value is not JSON in UTF-8") from None
    if not isinstance(found, dict):
        raise Rejected(Reason.INVALID_PAYLOAD, "the record's value is not a JSON object")
    return found


def check_fields(
    body: Mapping[str, Any], *, required: Sequence[str] = (), optional: Sequence[str] = ()
) -> None:
    """Raises `Rejected` where there are other fields: a misspelt one must not be passed over."""
    if not set(required) <= set(body) <= {*required, *optional}:
        fields = [*required, *(f"{name} (optional)" for name in optional)]
        raise Rejected(Reason.INVALID_PAYLOAD, f"the JSON object's fields are {', '.join(fields)}")
