"""Batches, unit length and running out of memory, for any model that gives features."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL.Image import Image, new

from memory.errors import Unavailable
from memory.model.vectors import unit_rows

Embeddings = npt.NDArray[np.float32]


class Features(Protocol):
    """A model as the batches need it."""

    def __call__(self, images: Sequence[Image]) -> Embeddings:
        """RGB images to features (len(images), dim), not normalised.

        Raises `MemoryError` when these are too many, on whatever device.
        """
        ...


class BatchedEmbedder:
    """The `Embedder` port over any `Features`; `dim` is seen, not declared.

    With a `pool` batches are embedded side by side in its threads; one alone never is.
    """

    def __init__(
        self,
        name: str,
        digest: str,
        features: Features,
        *,
        batch_size: int,
        pool: Executor | None = None,
    ) -> None:
        self.name = name
        self.digest = digest
        self._features = features
        self._batch_size = batch_size
        self._pool = pool
        self.dim = int(features([new("RGB", (32, 32), "white")]).shape[1])

    def embed(self, images: Sequence[Image]) -> Embeddings:
        """RGB images to an array (len(images), dim) of float32 rows of length 1.

        Raises `Rejected` (NOT_FINITE, ZERO_VECTOR) for the whole call when one image has no
        direction in the embedding: embed one at a time then, and only the culprit is refused.
        Raises `Unavailable` when memory does not suffice for one image alone.
        """
        if not images:
            return np.empty((0, self.dim), np.float32)
        size = self._batch_size
        parts = [images[start : start + size] for start in range(0, len(images), size)]
        side_by_side = map if self._pool is None or len(parts) == 1 else self._pool.map
        found = list(side_by_side(self._halving, parts))
        return unit_rows(np.concatenate(found), "the embedder's vector for the image")

    def _halving(self, images: Sequence[Image]) -> Embeddings:
        """Embed a batch; on running out of memory in halves, until one image alone fails."""
        try:
            return self._features(images)
        except MemoryError as error:
            if len(images) == 1:
                raise Unavailable("the embedder has not enough memory for one image") from error
        # Only here, after the handler, has the failed batch's memory been let go.
        middle = len(images) // 2
        return np.concatenate([self._halving(images[:middle]), self._halving(images[middle:])])
