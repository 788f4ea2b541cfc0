"""Keyed digests: names of images, selectors and requests that tell nothing without the key."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import NewType

from memory.model.events import Selector, SelectorKind, Surroundings

ImageKey = NewType("ImageKey", str)
"""Of an image id: 32 hex digits."""
SelectorKey = NewType("SelectorKey", str)
"""``<kind>:<32 hex digits>``; the digits of an image selector are its `ImageKey`."""
RequestKey = NewType("RequestKey", str)
"""Of a forget-request's id: 32 hex digits."""

_SOURCE = f"{SelectorKind.SOURCE}:"


def count_sources(selectors: Iterable[SelectorKey]) -> int:
    """How many of these are sources."""
    return sum(selector.startswith(_SOURCE) for selector in selectors)


class KeyedDigests:
    """What an index addresses images, selectors and requests by (see `memory.ports.MemoryIndex`)."""

    def __init__(self, hmac_key: bytes) -> None:
        self._hmac_key = hmac_key
        # To take the key in anew costs a third of a digest.
        self._keyed = hmac.new(hmac_key, digestmod=hashlib.sha256)

    def image_key(self, image_id: str) -> ImageKey:
        return ImageKey(self._digest("image", image_id))

    def selector_key(self, selector: Selector | Surroundings) -> SelectorKey:
        digest = self._digest(selector.kind, selector.value)
        return SelectorKey(f"{selector.kind}:{digest}")

    def request_key(self, request_id: str) -> RequestKey:
        return RequestKey(self._digest("request", request_id))

    def due_key(self, request_id: str) -> str:
        """By which a request that is to be carried out later is known to be due: who has the key says it."""
        return self._digest("due", request_id)

    def _digest(self, kind: str, name: str) -> str:
        keyed = self._keyed.copy()
        keyed.update(f"{kind}\0{name}".encode())
        return keyed.hexdigest()[:32]
