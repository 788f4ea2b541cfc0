"""The memory as a library: remember, correct, forget, recall.

Everything here is safe to repeat and to interleave with other workers; see memory/merge.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL.Image import Image

from memory.claims.fetcher import redeemed
from memory.embedders import VectorsOnly
from memory.errors import Reason, Rejected
from memory.facts import take
from memory.images import ImageLimits, decode
from memory.model.answers import ItemRef, Position, Prediction, Query
from memory.model.events import Correction, Forget, Ingest, Payload, SelectorKind, VectorPayload
from memory.model.state import Put, PutResult, Trace
from memory.model.times import FOREVER, NEVER
from memory.ports import Embedder, FenceFact, FenceLog, Fetch, MemoryIndex
from memory.vectors import Vector
from memory.voting import vote

DEFAULT_CLOCK_SKEW = 5 * 60 * 1_000_000

Observe = Callable[[str, float], None]
"""Told (stage, seconds) of each step: fetch, embed, merge, search, vote."""


@dataclass(frozen=True, slots=True)
class Merged:
    """The event is in the memory. `won` is False when an event with a greater stamp stands."""

    won: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """The event is about something forgotten; events after `admitted_after` (µs) are taken."""

    admitted_after: int


Outcome = Merged | Refused | Rejected


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A forget-request carried out: what it matched is in no answer from now on.

    Times are µs. `images` counts those that showed something until now.
    """

    first_seen: int
    until: int
    fenced: int
    erased: int
    images: int
    repeated: bool


def _now() -> int:
    return time.time_ns() // 1000


def _facts(image: str, result: PutResult) -> list[FenceFact]:
    """What a rebuilt memory must know of an image of which something was erased."""
    postings = [FenceFact("posting", selector=s, image=image) for s in sorted(result.selectors)]
    if result.barrier == NEVER:
        return postings
    return [FenceFact("barrier", image=image, until=result.barrier), *postings]


class NoFenceLog:
    """For a memory without a log: Redis alone keeps the fences."""

    def append(self, facts: Sequence[FenceFact]) -> None:
        """Keep nothing."""


class VisualMemory:
    """A living visual memory over an index and an embedder.

    `clock_skew` is µs: how far ahead of the log an event's clock may be. `logs` names the
    topics, by topic id, whose positions answers carry. Without an embedder it takes and asks
    with ready vectors only, without `fetch` it takes no claims.
    """

    def __init__(
        self,
        index: MemoryIndex,
        embedder: Embedder | None,
        *,
        fence_log: FenceLog | None = None,
        limits: ImageLimits | None = None,
        fetch: Fetch | None = None,
        clock_skew: int = DEFAULT_CLOCK_SKEW,
        logs: Mapping[str, str] | None = None,
        observe: Observe = lambda _stage, _seconds: None,
    ) -> None:
        self.index = index
        self._embedder: Embedder = embedder or VectorsOnly(index.embedder, index.dim)
        self._fence_log: FenceLog = NoFenceLog() if fence_log is None else fence_log
        self._limits = limits or ImageLimits()
        self._fetch = fetch
        self._clock_skew = clock_skew
        self._logs = dict(logs or {})
        self._observe = observe

    def remember(self, events: Sequence[Ingest]) -> list[Outcome]:
        """Merge images into the memory; one outcome an event, in order.

        What is already forgotten is refused before it costs a fetch, a decoding or an embedding.
        """
        images = [self.index.image_key(event.image_id) for event in events]
        selectors = [tuple(map(self.index.selector_key, event.selectors)) for event in events]
        barriers = self.index.enlist(list(zip(selectors, images, strict=True)))
        living = [i for i, event in enumerate(events) if event.time > barriers[i]]
        vectors = dict(zip(living, self._vectors([events[i].payload for i in living]), strict=True))
        outcomes: dict[int, Outcome] = {}
        puts: list[tuple[int, Put]] = []
        for i, event in enumerate(events):
            vector = vectors.get(i)
            trace = None
            if isinstance(vector, Rejected):
                # Its image is listed by now, and a forget that comes first never looks at the
                # payload: either way the image bore these selectors.
                outcomes[i] = vector
            elif vector is not None:
                trace = Trace(
                    image_id=event.image_id,
                    image_digest=event.payload_digest,
                    label=event.label,
                    source=event.source,
                    subjects=event.subjects,
                    attributes=event.attributes,
                    embedder=self._embedder.digest,
                    vector=vector,
                )
            put = Put(
                image=images[i],
                barrier=barriers[i],
                address=event.address,
                selectors=selectors[i],
                stamp=event.stamp if trace else None,
                trace=trace,
            )
            puts.append((i, put))
        merged, results = self._merge(events, puts)
        outcomes = merged | outcomes
        # A rebuilt memory sees neither the refused event nor what its barrier erased of the same
        # image, but must list the image as this one does: a later forget by another of its
        # selectors would miss it otherwise.
        self._fence_log.append(
            [
                fact
                for (i, _), result in zip(puts, results, strict=True)
                if result.outbox or not isinstance(outcomes[i], Merged)
                for fact in _facts(images[i], result)
            ]
        )
        return [outcomes[i] for i in range(len(events))]

    def correct(self, events: Sequence[Correction]) -> list[Outcome]:
        """Merge people's labels; a correction may come before its image."""
        puts = [
            Put(
                image=self.index.image_key(event.image_id),
                address=event.address,
                stamp=event.stamp,
                correction=True,
                corrected=event.label,
            )
            for event in events
        ]
        outcomes, _ = self._merge(events, list(enumerate(puts)))
        return [outcomes[i] for i in range(len(events))]

    def _merge(
        self, events: Sequence[Ingest | Correction], puts: Sequence[tuple[int, Put]]
    ) -> tuple[dict[int, Outcome], list[PutResult]]:
        started = time.perf_counter()
        results = self.index.put([put for _, put in puts])
        self._observe("merge", time.perf_counter() - started)
        outcomes: dict[int, Outcome] = {
            i: Refused(result.barrier)
            if events[i].time <= result.barrier
            else Merged(won=result.won)
            for (i, _), result in zip(puts, results, strict=True)
        }
        return outcomes, results

    def forget(self, request: Forget) -> Forgotten:
        """Carry out a request: when this returns, no answer rests on what it names.

        Fences and their facts are durable before anything is erased. Repeating an unfinished
        request finishes it; a label is expanded into images once and never again.
        """
        index, selector = self.index, request.selector
        key = index.request_key(request.request_id)
        first_seen, closed = index.open_request(key, request.time)
        until = FOREVER if request.permanent else first_seen + self._clock_skew
        if closed:
            now = _now()
            return Forgotten(first_seen, until, now, now, images=0, repeated=True)
        pages: Iterable[Sequence[str]]
        fenced = None
        if selector.kind is SelectorKind.IMAGE:
            pages = [[index.image_key(selector.value)]]
        elif selector.kind is SelectorKind.LABEL:
            for page in index.labelled(selector.value):
                index.expansion(key, page)
            pages = [sorted(index.expansion(key, ()))]
        else:
            selector_key = index.selector_key(selector)
            index.fence(selector_key, until)
            self._fence_log.append([FenceFact("fence", selector=selector_key, until=until)])
            fenced = _now()
            pages = index.listed(selector_key)
        images = sum(self._erase(page, until) for page in pages)
        erased = _now()
        self._fence_log.append([FenceFact("request", request=key, until=until)])
        index.close_request(key, until)
        # An image's fence is its own barrier.
        return Forgotten(first_seen, until, fenced or erased, erased, images, repeated=False)

    def _erase(self, images: Sequence[str], until: int) -> int:
        """Raise the barrier of each image; returns how many showed something until now."""
        self._fence_log.append([FenceFact("barrier", image=i, until=until) for i in images])
        results = self.index.put([Put(image=image, barrier=until) for image in images])
        self._fence_log.append(
            [
                FenceFact("posting", selector=selector, image=image)
                for image, result in zip(images, results, strict=True)
                for selector in sorted(result.selectors)
            ]
        )
        return sum(result.erased for result in results)

    def apply(self, facts: Iterable[FenceFact]) -> None:
        """Take facts of forgetting from the log, as a new or an older memory must."""
        take(self.index, facts)

    def recall(self, queries: Sequence[Query]) -> list[Prediction | Rejected]:
        """Answer questions together; positions are read before the search: "at least"."""
        as_of = tuple(
            Position(self._logs[topic_id], topic_id, partition, offset)
            for (topic_id, partition), offset in sorted(self.index.positions().items())
            if topic_id in self._logs
        )
        started = time.perf_counter()
        vectors = self._query_vectors(queries)
        embedded = time.perf_counter()
        askable = [i for i, vector in enumerate(vectors) if not isinstance(vector, Rejected)]
        found = self.index.search(
            [vector for vector in vectors if not isinstance(vector, Rejected)],
            [queries[i].k for i in askable],
            [
                payload.image_id if isinstance(payload := queries[i].payload, ItemRef) else None
                for i in askable
            ],
        )
        searched = time.perf_counter()
        self._observe("search", searched - embedded)
        answers: dict[int, Prediction | Rejected] = {
            i: vector for i, vector in enumerate(vectors) if isinstance(vector, Rejected)
        }
        for i, result in zip(askable, found, strict=True):
            query = queries[i]
            before = time.perf_counter()
            votes = vote(result.hits, query.rule, k=query.k)
            voted = time.perf_counter() - before
            self._observe("vote", voted)
            answers[i] = Prediction(
                vote=votes,
                rule=query.rule,
                k=query.k,
                exact=result.exact,
                embedder=self._embedder.digest,
                as_of=as_of,
                timings={
                    "embed": embedded - started,
                    "search": searched - embedded,
                    "vote": voted,
                },
            )
        return [answers[i] for i in range(len(queries))]

    def _query_vectors(self, queries: Sequence[Query]) -> list[Vector | Rejected]:
        vectors: dict[int, Vector | Rejected] = {}
        refs: list[tuple[int, str]] = []
        payloads: list[tuple[int, Payload]] = []
        for i, query in enumerate(queries):
            if isinstance(query.payload, ItemRef):
                refs.append((i, query.payload.image_id))
            else:
                payloads.append((i, query.payload))
        for (i, _), stored in zip(
            refs, self.index.vectors_of([image_id for _, image_id in refs]), strict=True
        ):
            vectors[i] = (
                stored
                if stored is not None
                else Rejected(Reason.UNKNOWN_ITEM, "the memory holds no such item")
            )
        embedded = self._vectors([payload for _, payload in payloads])
        vectors.update(zip((i for i, _ in payloads), embedded, strict=True))
        return [vectors[i] for i in range(len(queries))]

    def _vectors(self, payloads: Sequence[Payload]) -> list[Vector | Rejected]:
        """Unit vectors of images (decoded and embedded together) and of ready vectors."""
        vectors: dict[int, Vector | Rejected] = {}
        images = {}
        for i, payload in enumerate(redeemed(payloads, self._fetch, self._observe)):
            try:
                if isinstance(payload, Rejected):
                    vectors[i] = payload
                elif isinstance(payload, VectorPayload):
                    vectors[i] = self._checked(payload)
                else:
                    images[i] = decode(payload.data, self._limits)
            except Rejected as rejected:
                vectors[i] = rejected
        if images:
            started = time.perf_counter()
            batch = list(images.values())
            try:
                vectors.update(zip(images, self._embedder.embed(batch), strict=True))
            except Rejected:
                for i, image in images.items():
                    vectors[i] = self._embedded_alone(image)
            self._observe("embed", time.perf_counter() - started)
        return [vectors[i] for i in range(len(payloads))]

    def _embedded_alone(self, image: Image) -> Vector | Rejected:
        try:
            vector: Vector = self._embedder.embed([image])[0]
        except Rejected as rejected:
            return rejected
        return vector

    def _checked(self, payload: VectorPayload) -> Vector:
        """A producer's vector at unit length, if this memory can take it."""
        if payload.embedder != self._embedder.digest:
            raise Rejected(
                Reason.OTHER_EMBEDDER,
                f"the vector names another embedder; this memory's is {self._embedder.digest}",
            )
        vector = payload.vector
        if vector.shape != (self._embedder.dim,):
            raise Rejected(
                Reason.WRONG_DIMENSION,
                f"the vector has {vector.size} dimensions, this memory's {self._embedder.dim}",
            )
        if not np.isfinite(vector).all():
            raise Rejected(Reason.NOT_FINITE, "the vector has NaN or infinite elements")
        # The norm of tiny or huge float32 elements under- or overflows in float32.
        norm = float(np.linalg.norm(vector.astype(np.float64)))
        if norm == 0:
            raise Rejected(Reason.ZERO_VECTOR, "the vector is zero; it has no direction")
        unit: Vector = (vector.astype(np.float64) / norm).astype(np.float32)
        return unit
