"""Payloads to vectors: claims fetched, images decoded and embedded together, vectors checked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from PIL.Image import Image

from memory.claims.fetcher import resolve_claims
from memory.errors import Rejected
from memory.images import ImageLimits, decode, give_back_memory
from memory.model.events import ImagePayload, Payload, VectorPayload
from memory.model.vectors import Vector, check_made_by, unit_rows
from memory.ports import Embedder, Fetch

PIXELS_AT_ONCE = 8_000_000
"""Decoded at once, if not of one image: 24 MB, or 150 images of the size that models look at."""

Observe = Callable[[str, float], None]
"""Told (stage, seconds) of each step: fetch, embed, merge, search, vote."""


class PayloadEmbedder:
    """Makes unit vectors of what events and questions bring. Without `fetch` it takes no claims.

    For many threads: one decodes while another's images are embedded.
    """

    def __init__(
        self, embedder: Embedder, limits: ImageLimits, fetch: Fetch | None, observe: Observe
    ) -> None:
        self._embedder = embedder
        self._limits = limits
        self._fetch = fetch
        self._observe = observe
        self._decoding = threading.Lock()
        self._embedding = threading.Lock()

    def embed(self, payloads: Sequence[Payload]) -> list[Vector | Rejected]:
        """A unit vector of each, or why there is none; in order. Raises `Unavailable`."""
        found, pixels = self._embed_in_groups(payloads)
        if pixels > PIXELS_AT_ONCE // 2:
            give_back_memory()
        return found

    def _embed_in_groups(self, payloads: Sequence[Payload]) -> tuple[list[Vector | Rejected], int]:
        """What `embed` returns, and the most pixels that were held at once."""
        found: list[Vector | Rejected] = []
        waiting: list[Image | Vector | Rejected] = []
        pixels = greatest = 0
        resolved = resolve_claims(payloads, self._fetch, self._observe)
        with self._decoding:
            for payload in resolved:
                one = self._prepare(payload)
                if isinstance(one, Image):
                    size = one.width * one.height
                    if pixels and pixels + size > PIXELS_AT_ONCE:
                        found += self._embed_group(waiting, pixels + size)
                        waiting, pixels = [], 0
                    pixels += size
                    greatest = max(greatest, pixels)
                waiting.append(one)
            return found + self._embed_group(waiting, pixels), greatest

    def _embed_group(
        self, prepared: Sequence[Image | Vector | Rejected], pixels: int
    ) -> list[Vector | Rejected]:
        images = [one for one in prepared if isinstance(one, Image)]
        with self._others_decode(pixels):
            embedded = iter(self._embed(images))
        brought = iter(_units([one for one in prepared if isinstance(one, np.ndarray)]))
        return [
            one
            if isinstance(one, Rejected)
            else next(embedded if isinstance(one, Image) else brought)
            for one in prepared
        ]

    @contextmanager
    def _others_decode(self, pixels: int) -> Iterator[None]:
        """Let another thread decode meanwhile, unless what is held is a large image's."""
        if pixels > 2 * PIXELS_AT_ONCE:
            yield
            return
        self._decoding.release()
        try:
            yield
        finally:
            self._decoding.acquire()

    def _prepare(
        self, payload: ImagePayload | VectorPayload | Rejected
    ) -> Image | Vector | Rejected:
        try:
            match payload:
                case ImagePayload():
                    return decode(payload.data, self._limits)
                case VectorPayload(vector, made_by):
                    dim = self._embedder.dim
                    check_made_by(vector, made_by, embedder=self._embedder.digest, dim=dim)
                    return vector
                case Rejected():
                    return payload
        except Rejected as rejected:
            return rejected

    def _embed(self, images: Sequence[Image]) -> list[Vector | Rejected]:
        if not images:
            return []
        with self._embedding:
            started = time.perf_counter()
            try:
                vectors: list[Vector | Rejected] = list(self._embedder.embed(images))
            except Rejected:
                vectors = [self._embed_alone(image) for image in images]
            self._observe("embed", time.perf_counter() - started)
            return vectors

    def _embed_alone(self, image: Image) -> Vector | Rejected:
        try:
            vector: Vector = self._embedder.embed([image])[0]
        except Rejected as rejected:
            return rejected
        return vector


def _units(vectors: Sequence[Vector]) -> list[Vector | Rejected]:
    """Vectors of one dimension at length 1, or why one is not to be had."""
    if not vectors:
        return []
    try:
        return list(unit_rows(np.stack(vectors)))
    except Rejected as rejected:
        if len(vectors) == 1:
            return [rejected]
    return [unit for vector in vectors for unit in _units([vector])]
