"""What a generation shows, read from Redis once and kept current by its stream of changes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import redis

from memory.model.events import LogPartition
from memory.model.keys import ImageKey
from memory.redis.connection import map_redis_errors
from memory.redis.names import KeyNames, named_partition
from memory.redis.scan import image_of, pages
from memory.redis.schema import Schema
from memory.replica.rows import Rows, Shown

CHANGES_AT_ONCE = 250
MORE = ("sel", "corrected")
"""Fields of an item that are read beside its id, label and vector."""


class LostTrack(Exception):
    """The stream does not hold any more what this replica has read last: it must be read anew."""


class Replica:
    """The rows of one generation. Not for many threads; raises `Unavailable`, `Misconfigured`.

    What it was told of comes from Redis as it is then, so that the same change read twice, or one
    that was overtaken, does no harm.
    """

    def __init__(
        self, client: redis.Redis, names: KeyNames, schema: Schema, max_bytes: int
    ) -> None:
        self._client: Any = client  # redis-py's types assume replies decoded to text
        self._names = names
        self._schema = schema
        self._last = b""
        self.rows = Rows(schema.dim, schema.element, max_bytes)

    def load(self) -> None:
        """Read all items, then what changed meanwhile."""
        with map_redis_errors():
            newest = self._client.xrevrange(self._names.changes, count=1)
        self._last = newest[0][0] if newest else b""
        with map_redis_errors():
            for page in pages(self._client, self._names.prefix, "item"):
                pipeline = self._client.pipeline(transaction=False)
                for key in page:
                    pipeline.hmget(key, "id", "label", "vector", *MORE)
                images = [image_of(key).encode() for key in page]
                self._take(images, *zip(*pipeline.execute(), strict=True))
        self.catch_up()

    def catch_up(self) -> dict[LogPartition, int]:
        """Be as Redis was when this was called, or later. Returns the positions of then.

        Changes and the items they are of are read in one step of Redis, a page at a time. Raises
        `LostTrack`, `OverBudget`, and `Moved` where another generation answers by now.
        """
        names, read = self._names, CHANGES_AT_ONCE
        while read == CHANGES_AT_ONCE:
            with map_redis_errors():
                try:
                    positions, last, read, *found = self._client.fcall_ro(
                        *("vm1_changed", 2, names.changes, names.positions),
                        *(self._last, CHANGES_AT_ONCE, *MORE),
                    )
                except redis.ResponseError as error:
                    if str(error).startswith("LOST"):
                        raise LostTrack from None
                    raise
            self._take(*(found[i::6] for i in range(6)))
            self._last = last
        return {
            named_partition(place.decode()): int(offset)
            for place, offset in zip(positions[::2], positions[1::2], strict=True)
        }

    def _take(
        self,
        images: Sequence[bytes],
        ids: Sequence[bytes | None],
        labels: Sequence[bytes | None],
        vectors: Sequence[bytes | None],
        selectors: Sequence[bytes | None],
        corrected: Sequence[bytes | None],
    ) -> None:
        """Be as Redis is in these images, each once; None: it is not shown."""
        rows = self.rows
        shown = [i for i, vector in enumerate(vectors) if vector is not None]
        if len(shown) < len(images):
            for image, vector in zip(images, vectors, strict=True):
                if vector is None:
                    rows.remove(ImageKey(image.decode()))
        if shown:
            told = [
                Shown(
                    ImageKey(images[i].decode()),
                    (ids[i] or b"").decode(),
                    sys.intern((labels[i] or b"").decode()),
                    sys.intern((selectors[i] or b"").decode()),
                    bool(corrected[i]),
                )
                for i in shown
            ]
            blobs = b"".join(vectors[i] or b"" for i in shown)
            rows.put(told, np.frombuffer(blobs, self._schema.element).reshape(len(shown), -1))
