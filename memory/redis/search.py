"""Exact and approximate nearest neighbours through RediSearch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import redis
from redis.commands.search.field import TagField, VectorField
from redis.commands.search.index_definition import IndexDefinition, IndexType

from memory.errors import Misconfigured, Moved, Unavailable
from memory.model.answers import Hit, SearchResult
from memory.model.keys import ImageKey, SelectorKey
from memory.model.questions import Exclusion, Probe
from memory.model.vectors import cosine_distances
from memory.redis.connection import map_redis_errors
from memory.redis.scan import image_of
from memory.redis.schema import Schema

MAX_CANDIDATES = 4096
MAX_WITH_EXCLUDED = 32_768
"""Candidates where some that come nearest may be excluded."""
MARGIN = 8
"""Candidates beyond k, so that one round settles nearly all questions."""
TIMEOUT_MS = 10_000
BUILD_SECONDS = 10.0
SLACK_FLOOR = 1e-6
"""What float32 distances may be off by, where no candidate shows it."""
SLACK_FACTOR = 4
"""How many times the error seen among the candidates one outside may have."""
HNSW = {"M": "16", "EF_CONSTRUCTION": "200", "EF_RUNTIME": "200"}
ROWS_A_PAGE = 10_000


@dataclass(frozen=True, slots=True)
class _Candidates:
    hits: list[Hit]
    distances: npt.NDArray[np.float64]
    approximate: npt.NDArray[np.float64]
    complete: bool


class VectorSearch:
    """KNN over one index. Distances are recomputed in float64 from the stored vectors.

    RediSearch's own FLOAT16 distances depend on the processor: with AVX512-FP16 it sums in half
    precision and was seen 5e-4 off at 1,280 dimensions, enough to change neighbours. So more
    candidates than asked for are fetched with their vectors, and enough of them that nothing
    outside can belong to the answer.
    """

    def __init__(self, client: redis.Redis, prefix: str, schema: Schema) -> None:
        self._client: Any = client  # redis-py's types assume replies decoded to text
        self._items = f"{prefix}:item:"
        self._index = f"{prefix}:index"
        self._meta = f"{prefix.rpartition(':')[0]}:meta"
        self._schema = schema

    def check_current(self) -> None:
        """`Moved` where another generation answers by now."""
        with map_redis_errors():
            self._check(self._client.hget(self._meta, "generation"))

    def _check(self, generation: bytes | None) -> None:
        if generation != self._schema.generation.encode():
            raise Moved("the memory was rebuilt meanwhile; do it again")

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """As `map_redis_errors`; but an index that is gone may be of a generation that is."""
        try:
            with map_redis_errors():
                yield
        except Misconfigured:
            self.check_current()
            raise

    def create(self) -> None:
        """Make the index if it is not there, and make a cut search an error.

        Waits a little while the index is being built, since a new one first scans all keys of
        the server; searches refuse as long as it takes.
        """
        try:
            # Workers may lack the right to set it; `provision` has done so then.
            ((_, policy),) = self._client.execute_command("FT.CONFIG", "GET", "ON_TIMEOUT")
            if policy.upper() != b"FAIL":
                self._client.execute_command("FT.CONFIG", "SET", "ON_TIMEOUT", "FAIL")
        except redis.ResponseError as error:
            if "unknown command" in str(error).lower():
                raise Misconfigured(
                    "this Redis has no search module; use redis:8 or redis-stack"
                ) from None
            raise
        if self._index.encode() not in self._client.execute_command("FT._LIST"):
            self._create()
        deadline = time.monotonic() + BUILD_SECONDS
        while time.monotonic() < deadline:
            try:
                self.count()
            except Unavailable:
                time.sleep(0.01)
            else:
                return

    def _create(self) -> None:
        options = {
            "TYPE": self._schema.dtype,
            "DIM": str(self._schema.dim),
            "DISTANCE_METRIC": "COSINE",
            **(HNSW if self._schema.algorithm == "HNSW" else {}),
        }
        # A separator that no label or id can contain: one tag each.
        tags = [TagField(name, separator="\x1f", case_sensitive=True) for name in ("label", "id")]
        fields = [*tags, VectorField("vector", self._schema.algorithm, options)]
        kind = IndexType.HASH
        definition = IndexDefinition(prefix=[self._items], index_type=kind)  # type: ignore[no-untyped-call]  # redis-py
        try:
            self._client.ft(self._index).create_index(fields, definition=definition)
        except redis.ResponseError as error:
            if "already exists" not in str(error):
                raise

    def count(self) -> int:
        """Searchable items."""
        with self._answered():
            return self._complete(self._client.execute_command("FT.INFO", self._index))

    @staticmethod
    def _complete(reply: Sequence[Any]) -> int:
        """Items the index covers, from FT.INFO; `Unavailable` while it is being built.

        An index made over existing data (a restored Redis, an index dropped by hand) answers
        from the part it has read so far, as if that were all. Counting by FT.SEARCH would visit
        every item.
        """
        info = dict(zip(reply[::2], reply[1::2], strict=True))
        if int(info[b"indexing"]):
            raise Unavailable("Redis: the search index is being built")
        return int(info[b"num_docs"])

    def nearest(self, probes: Sequence[Probe]) -> list[SearchResult]:
        """See `memory.ports.MemoryIndex.search`."""
        results: dict[int, SearchResult] = {}
        asked = {
            i: probe.k + MARGIN + probe.k // 4 + len(probe.without.images)
            for i, probe in enumerate(probes)
        }
        while asked:
            found = self._candidates(probes, asked)
            again = {}
            for i, size in asked.items():
                result = _settled(found[i], probes[i].k)
                most = MAX_WITH_EXCLUDED if probes[i].without else MAX_CANDIDATES
                if result is not None:
                    results[i] = SearchResult(result, self._schema.exact)
                elif size >= most:
                    results[i] = SearchResult(tuple(_ordered(found[i])[: probes[i].k]), exact=False)
                else:
                    again[i] = min(4 * size, most)
            asked = again
        return [results[i] for i in range(len(probes))]

    def _candidates(
        self, probes: Sequence[Probe], asked: Mapping[int, int]
    ) -> dict[int, _Candidates]:
        pipeline = self._client.pipeline(transaction=False)
        pipeline.execute_command("FT.INFO", self._index)
        for i, size in asked.items():
            pipeline.execute_command(
                *("FT.SEARCH", self._index),
                f"(*)=>[KNN {size} @vector $query AS distance]",
                *("PARAMS", "2", "query", self._schema.quantise(probes[i].vector).tobytes()),
                *("SORTBY", "distance", "LIMIT", "0", str(size)),
                *_returned(probes[i].without),
                *("TIMEOUT", str(TIMEOUT_MS), "DIALECT", "2"),
            )
        pipeline.execute_command("FT.INFO", self._index)
        # Looked at last: an answer of a generation that was left before is none.
        pipeline.hget(self._meta, "generation")
        with self._answered():
            first, *replies, last, generation = pipeline.execute()
        self._check(generation)
        at_least = min(self._complete(first), self._complete(last))
        found = {}
        for (i, size), (_, *rows) in zip(asked.items(), replies, strict=True):
            fields = [dict(zip(row[::2], row[1::2], strict=True)) for row in rows[1::2]]
            if self._schema.exact and len(fields) < min(size, at_least):
                raise Unavailable("Redis: the search was cut short")
            taking_part = [
                row
                for key, row in zip(rows[::2], fields, strict=True)
                # A document whose item is being erased this moment comes without its fields.
                if b"vector" in row and not _is_excluded(probes[i].without, key, row)
            ]
            found[i] = self._measured(probes[i], taking_part, complete=len(fields) < size)
        return found

    def _measured(
        self, probe: Probe, rows: Sequence[Mapping[bytes, bytes]], *, complete: bool
    ) -> _Candidates:
        if not rows:
            nothing = np.empty(0)
            return _Candidates([], nothing, nothing, complete)
        blobs = b"".join(f[b"vector"] for f in rows)
        stored = np.frombuffer(blobs, self._schema.element).reshape(len(rows), -1)
        distances = cosine_distances(probe.vector, stored)
        hits = [
            Hit(f[b"id"].decode(), f[b"label"].decode(), float(d))
            for f, d in zip(rows, distances, strict=True)
        ]
        approximate = np.array([float(f[b"distance"]) for f in rows])
        return _Candidates(hits, distances, approximate, complete)

    def images_with_label(self, label: str) -> list[ImageKey]:
        """Image keys of the items with this label."""
        wanted = ("PARAMS", "2", "label", _tag_parameter(label))
        rows = self._rows("@label:{$label}", "LOAD", "1", "@__key", *wanted)
        return [image_of(key) for _, key in rows]

    def label_counts(self, labels: Sequence[str] | None) -> Mapping[str, int]:
        """See `memory.ports.MemoryIndex.label_counts`."""
        if labels is None:
            rows = self._rows("*", *("GROUPBY", "1", "@label", "REDUCE", "COUNT", "0", "AS", "n"))
            return {label.decode(): int(count) for _, label, _, count in rows}
        pipeline = self._client.pipeline(transaction=False)
        pipeline.execute_command("FT.INFO", self._index)
        for label in labels:
            pipeline.execute_command(
                *("FT.SEARCH", self._index, "@label:{$label}"),
                *("PARAMS", "2", "label", _tag_parameter(label), "LIMIT", "0", "0"),
                *("TIMEOUT", str(TIMEOUT_MS), "DIALECT", "2"),
            )
        with self._answered():
            info, *replies = pipeline.execute()
            self._complete(info)
        return {label: int(reply[0]) for label, reply in zip(labels, replies, strict=True)}

    def _rows(self, query: str, *steps: str) -> Iterator[Sequence[bytes]]:
        """The rows of an aggregation, all of them: from a part of a label's images a request
        to forget would be closed for ever.
        """
        with self._answered():
            self._complete(self._client.execute_command("FT.INFO", self._index))
            (_, *rows), cursor = self._client.execute_command(
                *("FT.AGGREGATE", self._index, query, *steps),
                *("WITHCURSOR", "COUNT", str(ROWS_A_PAGE)),
                *("TIMEOUT", str(TIMEOUT_MS), "DIALECT", "2"),
            )
        yield from rows
        while cursor:
            with self._answered():
                (_, *rows), cursor = self._client.execute_command(
                    "FT.CURSOR", "READ", self._index, cursor
                )
            yield from rows


def _returned(without: Exclusion) -> Sequence[str]:
    fields = ["distance", "id", "label", "vector", *(["sel"] if without.selectors else [])]
    return "RETURN", str(len(fields)), *fields


def _is_excluded(without: Exclusion, key: bytes, row: Mapping[bytes, bytes]) -> bool:
    if not without:
        return False
    selectors = map(SelectorKey, row.get(b"sel", b"").decode().split())
    return without.covers(image_of(key), frozenset(selectors), row[b"label"].decode())


def _tag_parameter(tag: str) -> str:
    """A tag as a query's parameter, of which the search engine takes a layer of backslashes off."""
    return tag.replace("\\", "\\\\")


def _ordered(found: _Candidates) -> list[Hit]:
    return sorted(found.hits, key=lambda hit: (hit.distance, hit.image_id))


def _settled(found: _Candidates, k: int) -> tuple[Hit, ...] | None:
    """The k nearest, or None when something outside the candidates might belong to them.

    What is outside is, by the index's own distance, at least as far as the last candidate; that
    distance is wrong by no more than a few times what is seen among the candidates.
    """
    ordered = _ordered(found)
    if found.complete:
        return tuple(ordered[:k])
    if len(ordered) < k:
        return None
    slack = SLACK_FLOOR + SLACK_FACTOR * float(np.abs(found.approximate - found.distances).max())
    if ordered[k - 1].distance + slack < float(found.approximate.max()):
        return tuple(ordered[:k])
    return None
