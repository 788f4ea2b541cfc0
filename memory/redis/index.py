"""The memory's state and search in Redis with RediSearch.

The law runs in Redis functions (law.lua), several items a call, a round trip a batch and step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Self

import redis

from memory.errors import Rejected
from memory.model.answers import Influence, SearchResult
from memory.model.events import LogPartition
from memory.model.forgetting import Barrier, FenceFact, Posting, RequestCounts
from memory.model.keys import ImageKey, KeyedDigests, RequestKey, SelectorKey
from memory.model.logs import NO_WITNESSES, OF_NONE, ByPartition, Cut, Witnesses
from memory.model.questions import Probe
from memory.model.reliability import Uncounted
from memory.model.state import Digests, Item, OpenedRequest, Put, PutResult, Stats, TraceWrite
from memory.model.vectors import Vector
from memory.ports import Embedder
from memory.redis import marks, reports, requests, scan
from memory.redis.connection import Call, call_several, check_durability, map_redis_errors
from memory.redis.hashes import decode_put_result, encode_puts, encode_time
from memory.redis.listings import (
    admit_images,
    enlist_images,
    in_pages,
    listed_images,
    missing_facts,
    note_told,
    pruned_with_label,
    untold_facts,
)
from memory.redis.names import KeyNames
from memory.redis.schema import Schema, open_schema
from memory.redis.search import VectorSearch


class RedisIndex(KeyedDigests, Uncounted):
    """`memory.ports.MemoryIndex` on Redis. Open one with `open`."""

    def __init__(
        self,
        client: redis.Redis,
        namespace: str,
        hmac_key: bytes,
        schema: Schema,
        now: Callable[[], Schema] | None = None,
    ) -> None:
        """With `now`, which tells the generation that answers, it can follow (see `follow`)."""
        self._client: Any = client  # redis-py's types assume replies decoded to text
        self._namespace = namespace
        super().__init__(hmac_key)
        self._now = now
        self._adopt(schema)

    def _adopt(self, schema: Schema) -> None:
        self.names = KeyNames(f"{self._namespace}:{schema.generation}")
        self._schema = schema
        self._search = VectorSearch(self._client, self.names.prefix, schema)

    @classmethod
    def open(
        cls,
        client: redis.Redis,
        *,
        namespace: str,
        hmac_key: bytes,
        embedder: Embedder | None = None,
        algorithm: str = "FLAT",
        dtype: str = "FLOAT16",
    ) -> Self:
        """Open the memory of a namespace; make it if there is none and `embedder` is given.

        Raises `Misconfigured` when it was made with another embedder, dimension, algorithm,
        element type, HMAC key or law, and when there is none and no embedder to make it for.
        """
        with map_redis_errors():
            now = partial(
                open_schema,
                client,
                namespace=namespace,
                hmac_key=hmac_key,
                embedder=embedder,
                algorithm=algorithm,
                dtype=dtype,
            )
            index = cls(client, namespace, hmac_key, now(), now)
            index._search.create()
        return index

    def follow(self) -> None:
        """Go over to the generation that answers now; `Misconfigured` as `open`.

        An index of one certain generation (`at`) stays with it.
        """
        if self._now is not None:
            with map_redis_errors():
                schema = self._now()
            if schema != self._schema:
                self._adopt(schema)

    def at(self, schema: Schema) -> Self:
        """The same memory in one certain generation."""
        return type(self)(self._client, self._namespace, self._hmac_key, schema)

    def create(self) -> None:
        """Make the search index if it is not there."""
        with map_redis_errors():
            self._search.create()

    @property
    def schema(self) -> Schema:
        return self._schema

    @property
    def embedder(self) -> str:
        return self._schema.embedder

    @property
    def dim(self) -> int:
        return self._schema.dim

    def check_durability(self) -> None:
        """Refuse a Redis that could lose what it confirmed, or evict items. `Misconfigured`."""
        check_durability(self._client)

    def ping(self) -> None:
        """Raises `Unavailable` when Redis does not answer."""
        with map_redis_errors():
            self._client.ping()

    def missing_facts(self, facts: Sequence[FenceFact]) -> list[FenceFact]:
        """Those facts of forgetting that are not in the memory yet; only reads."""
        return missing_facts(self._client, self.names, facts)

    def enlist(
        self, listings: Sequence[tuple[Sequence[SelectorKey], ImageKey]]
    ) -> list[int | Rejected]:
        return enlist_images(self._client, self.names, listings)

    def admit(self, puts: Sequence[Put]) -> list[PutResult | Rejected]:
        return admit_images(self._client, self.names, puts, encode_puts(puts, self._schema))

    def put(self, puts: Sequence[Put], request: RequestKey | None = None) -> list[PutResult]:
        does = "put" if any(isinstance(put.write, TraceWrite) for put in puts) else "erase"
        calls = self._calls(puts, request)
        replies = call_several(self._client, f"vm1_{does}_several", calls)
        return list(map(decode_put_result, replies))

    def _calls(self, puts: Sequence[Put], request: RequestKey | None) -> Iterator[Call]:
        dying = () if request is None else self.names.request(request)[2:]
        keys = ((*self.names.item(put.image), *dying) for put in puts)
        return zip(keys, encode_puts(puts, self._schema), strict=True)

    def fence(self, selector: SelectorKey, until: int) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for _, key in self.names.buckets(selector):
            pipeline.fcall("vm1_fence", 1, key, encode_time(until))
        with map_redis_errors():
            pipeline.execute()

    def images_with_selector(self, selector: SelectorKey) -> Iterator[Sequence[ImageKey]]:
        return listed_images(self._client, self.names, selector)

    def untold(self, images: Sequence[ImageKey]) -> list[Barrier | Posting]:
        return untold_facts(self._client, self.names, images)

    def note_told(self, facts: Sequence[Barrier | Posting]) -> None:
        note_told(self._client, self.names, facts)

    def relist(self, selector: SelectorKey, image: ImageKey) -> None:
        with map_redis_errors():
            self._client.fcall("vm1_relist", 2, *self.names.bucket(selector, image), image)
        # The item lists what it ever bore, so that a later erasure can tell the log again.
        self.put([Put(image=image, selectors=(selector,))])

    def images_with_label(self, label: str) -> Iterator[Sequence[ImageKey]]:
        shown = self._search.images_with_label(label)
        return in_pages([*shown, *pruned_with_label(self._client, self.names, label)])

    def images_near(
        self, images: Sequence[ImageKey], distance: float
    ) -> Iterator[Sequence[ImageKey]]:
        yield from scan.images_near(self._client, self.names, self._schema, images, distance)
        self._search.check_current()

    def open_request(
        self, request: RequestKey, time: int, puts: Sequence[Put] = ()
    ) -> OpenedRequest:
        calls = self._calls(puts, request)
        return requests.open_request(self._client, self.names, request, time, calls)

    def expansion(self, request: RequestKey, images: Iterable[ImageKey]) -> frozenset[ImageKey]:
        return requests.expansion(self._client, self.names, request, images)

    def dying(self, images: Sequence[ImageKey], until: int) -> list[bool]:
        return requests.dying(self._client, self.names, images, until)

    def note_dying(self, request: RequestKey, images: Iterable[ImageKey]) -> int:
        return requests.note_dying(self._client, self.names, request, images)

    def note_counts(self, request: RequestKey, matched: int) -> RequestCounts:
        return requests.note_counts(self._client, self.names, request, matched)

    def close_request(self, request: RequestKey, until: int) -> None:
        requests.close_request(self._client, self.names, request, until)

    def counts_of(self, request: RequestKey) -> RequestCounts | None:
        return requests.counts_of(self._client, self.names, request)

    def open_requests(self) -> int:
        return requests.open_requests(self._client, self.names)

    def oldest_request(self) -> int | None:
        return requests.oldest_request(self._client, self.names)

    def search(self, probes: Sequence[Probe]) -> list[SearchResult]:
        return self._search.nearest(probes)

    def search_as_of(
        self, probes: Sequence[Probe]
    ) -> tuple[Mapping[LogPartition, int], list[SearchResult]]:
        positions = self.positions()
        return positions, self.search(probes)

    def add_influence(self, used: Mapping[str, tuple[int, int]]) -> None:
        by_key = {self.image_key(image_id): counts for image_id, counts in used.items()}
        reports.add_influence(self._client, self.names, by_key)

    def influence(self, count: int, image_id: str | None = None) -> tuple[int, Sequence[Influence]]:
        image = None if image_id is None else self.image_key(image_id)
        return reports.influence_of(self._client, self.names, count, image)

    def vectors_of(self, image_ids: Sequence[str]) -> list[Vector | None]:
        pipeline = self._client.pipeline(transaction=False)
        for image_id in image_ids:
            item, _, _ = self.names.item(self.image_key(image_id))
            pipeline.hget(item, "vector")
        schema = self._schema
        with map_redis_errors():
            blobs = pipeline.execute()
        self._search.check_current()
        return [None if blob is None else schema.decode_vector(blob) for blob in blobs]

    def holds(self, image_ids: Sequence[str]) -> list[bool]:
        found = scan.holds(self._client, self.names, list(map(self.image_key, image_ids)))
        self._search.check_current()
        return found

    def labels_of(self, images: Sequence[ImageKey]) -> list[str | None]:
        """The label that counts of each image that is shown or pruned."""
        return scan.labels_of(self._client, self.names, images)

    def item(self, image: ImageKey) -> Item | None:
        return scan.item(self._client, self.names, self._schema, image)

    def positions(self) -> Mapping[LogPartition, int]:
        follow = self._now is not None
        return scan.positions(self._client, self._namespace, self.names.prefix, follow=follow)

    def advance(
        self, positions: ByPartition, youngest: ByPartition = OF_NONE, noted: ByPartition = OF_NONE
    ) -> bool:
        return marks.advance(self._client, self.names, positions, youngest, noted)

    def witnesses(self) -> Witnesses:
        return marks.witnesses_of(self._client, self.names)

    def note_witnesses(self, witnesses: Witnesses, instead_of: Witnesses = NO_WITNESSES) -> None:
        marks.note_witnesses(self._client, self.names, witnesses, instead_of)

    def rewind(self, partition: LogPartition, cut: Cut) -> None:
        marks.rewind(self._client, self.names, partition, cut)

    def cuts(self) -> Mapping[LogPartition, Sequence[Cut]]:
        return marks.cuts_of(self._client, self.names)

    def digests(self) -> Digests:
        found = scan.scan_digests(self._client, self.names.prefix, self._schema)
        self._search.check_current()
        return found

    def stats(self) -> Stats:
        waiting, barriers = scan.waiting(self._client, self.names.prefix)
        with map_redis_errors():
            found = self._client.info("memory")
            pruned = int(self._client.scard(self.names.pruned))
        used, limit = int(found["used_memory"]), int(found["maxmemory"])
        return Stats(self._search.count(), waiting, barriers, used, limit, pruned)

    def label_counts(self, labels: Sequence[str] | None = None) -> Mapping[str, int]:
        return self._search.label_counts(labels)
