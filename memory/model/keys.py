"""Keyed digests: names of images, selectors and requests that tell nothing without the key."""

from __future__ import annotations

import hashlib
import hmac

from memory.model.events import Selector


class KeyedDigests:
    """What an index addresses images, selectors and requests by (see `memory.ports.MemoryIndex`)."""

    def __init__(self, hmac_key: bytes) -> None:
        self._hmac_key = hmac_key

    def image_key(self, image_id: str) -> str:
        return self._digest("image", image_id)

    def selector_key(self, selector: Selector) -> str:
        return f"{selector.kind}:{self._digest(selector.kind, selector.value)}"

    def request_key(self, request_id: str) -> str:
        return self._digest("request", request_id)

    def _digest(self, kind: str, name: str) -> str:
        message = f"{kind}\0{name}".encode()
        return hmac.new(self._hmac_key, message, hashlib.sha256).hexdigest()[:32]
