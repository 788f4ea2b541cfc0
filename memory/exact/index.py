"""The memory in one process, the oracle of the tests, good for evaluation and small memories: the law on
plain values and an exact search in numpy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from memory.errors import Rejected
from memory.exact.positions import ExactPositions
from memory.model import merge
from memory.model.answers import Hit, Influence, SearchResult
from memory.model.forgetting import Barrier, Posting, RequestCounts
from memory.model.keys import ImageKey, KeyedDigests, RequestKey, SelectorKey
from memory.model.logs import ByPartition
from memory.model.questions import Probe
from memory.model.reliability import Uncounted
from memory.model.state import Digests, Item, OpenedRequest, Put, PutResult, Stats, TraceWrite
from memory.model.times import NEVER, Stamp, stamp_time
from memory.model.vectors import Vector, cosine_distances, distances_to_nearest, stored_vector


class ExactIndex(KeyedDigests, ExactPositions, Uncounted):
    """`memory.ports.MemoryIndex` in numpy. `dtype` is the element type vectors are stored in."""

    def __init__(
        self, *, embedder: str, dim: int, hmac_key: bytes = b"", dtype: str = "float16"
    ) -> None:
        self._embedder = embedder
        self._dim = dim
        KeyedDigests.__init__(self, hmac_key)
        ExactPositions.__init__(self)
        self._dtype = np.dtype(dtype)
        self.state = merge.State()
        self._erased: dict[RequestKey, set[ImageKey]] = {}
        self._counts: dict[RequestKey, RequestCounts] = {}
        self._requests: dict[RequestKey, tuple[int, bool]] = {}
        self._expansions: dict[RequestKey, set[ImageKey]] = {}
        self._told: set[Barrier | Posting] = set()
        self._used: dict[ImageKey, tuple[int, int]] = {}

    @property
    def embedder(self) -> str:
        return self._embedder

    @property
    def dim(self) -> int:
        return self._dim

    def ping(self) -> None:
        """Always there."""

    def enlist(
        self, listings: Sequence[tuple[Sequence[SelectorKey], ImageKey]]
    ) -> list[int | Rejected]:
        rooms: dict[ImageKey, merge.Room] = {}
        for selectors, image in listings:
            borne = self.state.items.get(image, merge.EMPTY).selectors
            room = rooms.setdefault(image, merge.Room(len(borne), set()))
            room.new.update(set(selectors) - borne)
        return [
            self._enlist(selectors, image) if rooms[image].take(selectors) else merge.NO_ROOM
            for selectors, image in listings
        ]

    def _enlist(self, selectors: Sequence[SelectorKey], image: ImageKey) -> int:
        barrier = self.state.items.get(image, merge.EMPTY).barrier
        return max([barrier, *(merge.enlist(self.state, one, image) for one in selectors)])

    def admit(self, puts: Sequence[Put]) -> list[PutResult | Rejected]:
        return list(map(self._admit, puts))

    def _admit(self, put: Put) -> PutResult | Rejected:
        (barrier,) = self.enlist([(put.selectors, put.image)])
        if isinstance(barrier, Rejected):
            self._merge(replace(put, selectors=(), write=None))
            return barrier
        return self._merge(self._stored(replace(put, barrier=max(put.barrier, barrier))))

    def put(self, puts: Sequence[Put], request: RequestKey | None = None) -> list[PutResult]:
        results = [self._merge(self._stored(put)) for put in puts]
        if request is not None:
            dead = [put.image for put, done in zip(puts, results, strict=True) if done.erased]
            self.note_dying(request, dead)
        return results

    def _merge(self, put: Put) -> PutResult:
        before = self.state.items.get(put.image, merge.EMPTY)
        result = merge.put(self.state, put)
        if before.trace and stamp_time(Stamp(before.trace_stamp)) <= result.barrier:
            self._used.pop(put.image, None)
        return result

    def _stored(self, put: Put) -> Put:
        if not isinstance(put.write, TraceWrite):
            return put
        trace = put.write.trace
        vector = stored_vector(
            trace.vector, trace.embedder, embedder=self._embedder, dim=self._dim, dtype=self._dtype
        )
        stored = replace(trace, vector=vector.astype(np.float32))
        return replace(put, write=replace(put.write, trace=stored))

    def fence(self, selector: SelectorKey, until: int) -> None:
        merge.fence(self.state, selector, until)

    def images_with_selector(self, selector: SelectorKey) -> Iterator[Sequence[ImageKey]]:
        if images := sorted(self.state.postings.get(selector, ())):
            yield images

    def untold(self, images: Sequence[ImageKey]) -> list[Barrier | Posting]:
        facts: list[Barrier | Posting] = []
        for image in images:
            item = self.state.items.get(image, merge.EMPTY)
            if item.barrier != NEVER:
                facts.append(Barrier(image, item.barrier))
            facts += [Posting(selector, image) for selector in sorted(item.selectors)]
        return [fact for fact in facts if fact not in self._told]

    def note_told(self, facts: Sequence[Barrier | Posting]) -> None:
        self._told.update(facts)

    def relist(self, selector: SelectorKey, image: ImageKey) -> None:
        merge.enlist(self.state, selector, image)
        merge.put(self.state, Put(image=image, selectors=(selector,)))

    def images_with_label(self, label: str) -> Iterator[Sequence[ImageKey]]:
        found = [
            image for image, item in self.state.items.items() if item.trace and item.label == label
        ]
        if found:
            yield found

    def images_near(
        self, images: Sequence[ImageKey], distance: float
    ) -> Iterator[Sequence[ImageKey]]:
        held = {image: item.trace for image, item in self.state.items.items() if item.trace}
        given = [image for image in images if image in held]
        if not given:
            return
        yield given
        rows = np.array([trace.vector for trace in held.values()])
        nearest = distances_to_nearest([held[image].vector for image in given], rows)
        if found := [image for image, d in zip(held, nearest, strict=True) if d <= distance]:
            yield found

    def _visible(self) -> list[tuple[ImageKey, Item]]:
        return [(image, item) for image, item in self.state.items.items() if item.shown]

    def open_request(
        self, request: RequestKey, time: int, puts: Sequence[Put] = ()
    ) -> OpenedRequest:
        first_seen, closed = self._requests.get(request, (time, False))
        first_seen = min(first_seen, time)
        self._requests[request] = (first_seen, closed)
        is_put = not closed and first_seen == time
        return OpenedRequest(first_seen, closed, self.put(puts, request) if is_put else None)

    def expansion(self, request: RequestKey, images: Iterable[ImageKey]) -> frozenset[ImageKey]:
        held = self._expansions.setdefault(request, set())
        held.update(images)
        return frozenset(held)

    def dying(self, images: Sequence[ImageKey], until: int) -> list[bool]:
        return [merge.erases(self.state.items.get(image, merge.EMPTY), until) for image in images]

    def note_dying(self, request: RequestKey, images: Iterable[ImageKey]) -> int:
        held = self._erased.setdefault(request, set())
        held.update(images)
        return len(held)

    def note_counts(self, request: RequestKey, matched: int) -> RequestCounts:
        self._counts[request] = RequestCounts(len(self._erased.get(request, ())), matched)
        return self._counts[request]

    def close_request(self, request: RequestKey, until: int) -> None:
        first_seen, _ = self._requests.get(request, (until, False))
        self._requests[request] = (first_seen, True)
        self._expansions.pop(request, None)
        self._erased.pop(request, None)

    def counts_of(self, request: RequestKey) -> RequestCounts | None:
        return self._counts.get(request)

    def open_requests(self) -> int:
        return sum(not closed for _, closed in self._requests.values())

    def oldest_request(self) -> int | None:
        return min((seen for seen, closed in self._requests.values() if not closed), default=None)

    def search(self, probes: Sequence[Probe]) -> list[SearchResult]:
        shown = [(image, item, item.trace) for image, item in self._visible() if item.trace]
        vectors = [trace.vector for *_, trace in shown]
        stored = np.array(vectors, self._dtype).reshape(len(shown), self._dim)
        results = []
        for probe in probes:
            hits = sorted(
                (
                    Hit(trace.image_id, str(item.label), float(distance))
                    for (image, item, trace), distance in zip(
                        shown, cosine_distances(probe.vector, stored), strict=True
                    )
                    if not probe.without.covers(image, item.selectors, str(item.label))
                ),
                key=lambda hit: (hit.distance, hit.image_id),
            )
            results.append(SearchResult(tuple(hits[: probe.k]), exact=True))
        return results

    def search_as_of(self, probes: Sequence[Probe]) -> tuple[ByPartition, list[SearchResult]]:
        positions = self.positions()
        return positions, self.search(probes)

    def add_influence(self, used: Mapping[str, tuple[int, int]]) -> None:
        for image_id, (neighbor, decided) in used.items():
            if self.state.items.get(image := self.image_key(image_id), merge.EMPTY).shown:
                before = self._used.get(image, (0, 0))
                self._used[image] = (before[0] + neighbor, before[1] + decided)

    def influence(self, count: int, image_id: str | None = None) -> tuple[int, Sequence[Influence]]:
        wanted = list(self._used) if image_id is None else [self.image_key(image_id)]
        found = [
            Influence(trace.image_id, *self._used.get(image, (0, 0)))
            for image in wanted
            if (trace := self.state.items.get(image, merge.EMPTY).trace)
        ]
        return len(self._used), sorted(found, key=Influence.order)[:count]

    def vectors_of(self, image_ids: Sequence[str]) -> list[Vector | None]:
        items = [self.state.items.get(self.image_key(i), merge.EMPTY) for i in image_ids]
        return [item.trace.vector if item.trace and item.shown else None for item in items]

    def holds(self, image_ids: Sequence[str]) -> list[bool]:
        return [vector is not None for vector in self.vectors_of(image_ids)]

    def item(self, image: ImageKey) -> Item | None:
        return self.state.items.get(image)

    def digests(self) -> Digests:
        return merge.digests(self.state.items, self.state.fences)

    def stats(self) -> Stats:
        items = self.state.items.values()
        return Stats(
            items=len(self._visible()),
            waiting_corrections=sum(
                item.trace is None and bool(item.corrected_stamp) for item in items
            ),
            barriers=sum(item.trace is None and item.barrier != NEVER for item in items),
            bytes=sum(item.trace.vector.nbytes for item in items if item.trace),
            pruned=sum(item.trace is not None and not item.shown for item in items),
        )

    def label_counts(self, labels: Sequence[str] | None = None) -> Mapping[str, int]:
        counts = Counter(str(item.label) for _, item in self._visible())
        return dict(counts) if labels is None else {label: counts[label] for label in labels}
