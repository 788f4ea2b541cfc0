"""Facts of forgetting, which must survive everything else. Immutable values.

Selectors, images and requests are keyed digests; `until` is µs.
"""

from __future__ import annotations

from dataclasses import dataclass

from memory.model.keys import ImageKey, RequestKey, SelectorKey


@dataclass(frozen=True, slots=True)
class Fence:
    """No event up to `until` that bears the selector is in the memory."""

    selector: SelectorKey
    until: int


@dataclass(frozen=True, slots=True)
class Barrier:
    """No event up to `until` about the image is in the memory."""

    image: ImageKey
    until: int


@dataclass(frozen=True, slots=True)
class Posting:
    """The image ever bore the selector."""

    selector: SelectorKey
    image: ImageKey


@dataclass(frozen=True, slots=True)
class ClosedRequest:
    """The forget-request is carried out and never expands again."""

    request: RequestKey
    until: int


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """What a forget-request found: images of which it erased something, images ever heard of."""

    erased: int
    matched: int


FenceFact = Fence | Barrier | Posting | ClosedRequest
