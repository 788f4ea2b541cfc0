"""The memory as a library: remember, correct, forget, recall.

Everything here is safe to repeat and to interleave with other workers; see memory/model/merge.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, compress
from typing import TypeVar

from memory.decision.recall import Recall
from memory.decision.review import review
from memory.embedders import VectorsOnly
from memory.embedders.payloads import Observe, PayloadEmbedder
from memory.errors import Rejected
from memory.facts import NoFenceLog, take
from memory.images import ImageLimits
from memory.model.answers import Findings, Position, Prediction
from memory.model.arrival import Arrival, outcome_of
from memory.model.events import (
    Correction,
    Forget,
    Ingest,
    Prune,
    Selector,
    SelectorKind,
    Surroundings,
    VectorPayload,
)
from memory.model.forgetting import Barrier, ClosedRequest, Fence, FenceFact
from memory.model.keys import ImageKey, RequestKey, SelectorKey
from memory.model.outcomes import Forgotten, Merged, Outcome
from memory.model.questions import Query, Review
from memory.model.reliability import Pruning
from memory.model.state import CorrectionWrite, PruningWrite, Put, PutResult
from memory.model.times import FOREVER, SECOND, now_us
from memory.ports import Embedder, FenceLog, Fetch, MemoryIndex

_T = TypeVar("_T")

DEFAULT_CLOCK_SKEW = 5 * 60 * SECOND


class VisualMemory:
    """A living visual memory over an index and an embedder.

    `clock_skew` is µs: how far ahead of the log an event's clock may be. `logs` names the topics, by
    topic id, whose positions answers carry, `partitions` how many each has at least. Without an
    embedder it takes and asks with ready vectors only, without `fetch` it takes no claims.
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
        partitions: int | None = None,
        pruning: Pruning = Pruning.NONE,
        min_share: float = 0.0,
        observe: Observe = lambda _stage, _seconds: None,
    ) -> None:
        self.index = index
        self._embedder: Embedder = embedder or VectorsOnly(index.embedder, index.dim)
        self._fence_log: FenceLog = NoFenceLog() if fence_log is None else fence_log
        self._payloads = PayloadEmbedder(self._embedder, limits or ImageLimits(), fetch, observe)
        self._clock_skew = clock_skew
        self._logs = dict(logs or {})
        self._partitions = partitions
        self._observe = observe
        self._recall = Recall(
            index,
            self._payloads,
            logs=self._logs,
            observe=observe,
            pruning=pruning,
            min_share=min_share,
        )
        self._telling = threading.Lock()

    def remember(self, events: Sequence[Ingest]) -> list[Outcome]:
        """Merge images into the memory; one outcome an event, in order.

        What is already forgotten is refused before it costs a fetch, a decoding or an embedding.
        """
        index, digest = self.index, self._embedder.digest
        key_of = cache(index.selector_key)  # many come from one source
        results: Sequence[PutResult | Rejected]
        arrivals = [
            Arrival(event, index.image_key(event.image_id), tuple(map(key_of, event.selectors)))
            for event in events
        ]
        if all(isinstance(event.payload, VectorPayload) for event in events):
            self._embed(arrivals)
            results = self._merge(index.admit, [one.put(digest) for one in arrivals])
        else:
            barriers = index.enlist([(one.selectors, one.image) for one in arrivals])
            for one, barrier in zip(arrivals, barriers, strict=True):
                one.meet(barrier)
            self._embed([one for one in arrivals if one.is_admitted])
            results = self._merge(index.put, [one.put(digest) for one in arrivals])
        outcomes = [one.outcome(result) for one, result in zip(arrivals, results, strict=True)]
        # A rebuilt memory sees neither the refused event nor what its barrier erased of the same
        # image, but must list the image as this one does: a later forget by another of its
        # selectors would miss it otherwise.
        self._tell(
            [
                one.image
                for one, result, outcome in zip(arrivals, results, outcomes, strict=True)
                if isinstance(result, Rejected) or result.outbox or not isinstance(outcome, Merged)
            ]
        )
        return outcomes

    def _embed(self, arrivals: Sequence[Arrival]) -> None:
        vectors = self._payloads.embed([one.event.payload for one in arrivals])
        for one, vector in zip(arrivals, vectors, strict=True):
            one.vector = vector

    def _tell(self, images: Iterable[ImageKey], *then: ClosedRequest) -> None:
        """Tell the log what a rebuilt memory must know of images of which something was erased."""
        with self._telling:  # else two batches of one image both tell what neither has told yet
            facts = self.index.untold(list(dict.fromkeys(images)))
            self._fence_log.append([*facts, *then])
            self.index.note_told(facts)

    def correct(self, events: Sequence[Correction | Prune]) -> list[Outcome]:
        """Merge what people say of images, which may come before them: their label, or that they are pruned."""
        results = self._merge(
            self.index.put,
            [
                Put(
                    self.index.image_key(event.image_id),
                    address=event.address,
                    write=CorrectionWrite(event.stamp, event.label)
                    if isinstance(event, Correction)
                    else PruningWrite(event.stamp, event.pruned),
                )
                for event in events
            ],
        )
        return [outcome_of(event, result) for event, result in zip(events, results, strict=True)]

    def _merge(
        self, step: Callable[[Sequence[Put]], Sequence[_T]], puts: Sequence[Put]
    ) -> Sequence[_T]:
        started = time.perf_counter()
        results = step(puts)
        self._observe("merge", time.perf_counter() - started)
        return results

    def forget(self, request: Forget) -> Forgotten:
        """Carry out a request: when this returns, no answer rests on what it names.

        A fence, and what a label was expanded into, are in the log before anything is erased; an
        image that is named is erased at once and told before the request is closed. Repeating an
        unfinished request finishes it; a label, and what is around images, is expanded once and never again.
        """
        started = time.perf_counter()
        index, key = self.index, self.index.request_key(request.request_id)
        images, labels = request.of_kinds(SelectorKind.IMAGE), request.of_kinds(SelectorKind.LABEL)
        named = {index.image_key(selector.value) for selector in images}
        # Of these nothing need be noted, or told, before: they are erased in the first round trip.
        at_once = sorted(named) if len(images) == len(request.selectors) else ()
        puts = self._barriers(at_once, self._until(request, request.time))
        opened = index.open_request(key, request.time, puts)
        until = self._until(request, opened.first_seen)
        if opened.closed:
            return self._repeated(key, opened.first_seen, until)
        for page in self._expansion(labels, request.surroundings):
            index.expansion(key, page)
        is_expanded = labels or request.surroundings
        expanded = sorted(index.expansion(key, ())) if is_expanded else []
        fenced_by = request.of_kinds(SelectorKind.SUBJECT, SelectorKind.SOURCE)
        fences = list(map(index.selector_key, fenced_by))

        def pages() -> Iterator[Sequence[ImageKey]]:
            listed = map(index.images_with_selector, fences)
            yield from filter(None, chain([sorted(named), expanded], *listed))

        if fences or expanded:
            # What is fenced, or told, others may erase, who count for nobody.
            for page in pages():
                self._note_dying(key, page, until)
            self._fence(fences, expanded, until)
        # An image's fence is its own barrier.
        fenced = now_us() if fences else None
        ever_heard_of = set[ImageKey]()
        for page in pages():
            results = opened.results or index.put(self._barriers(page, until), key)
            # Who ends before this carries the request out again, and tells it then.
            if not at_once:
                self._tell(page)
            # An image that is named need not be known; one that is listed is.
            ever_heard_of.update(
                image
                for image, result in zip(page, results, strict=True)
                if image not in named or result.erased or result.sources > 0
            )
        self._observe("erase", time.perf_counter() - started)
        # Before the log has that it is closed: who reads that there closes it without counting.
        counts = index.note_counts(key, len(ever_heard_of))
        self._tell(at_once, ClosedRequest(key, until))
        erased = now_us()
        index.close_request(key, until)
        return Forgotten(
            *(opened.first_seen, until, fenced or erased, erased),
            *(counts.erased, counts.matched),
            repeated=False,
        )

    def _until(self, request: Forget, first_seen: int) -> int:
        return FOREVER if request.permanent else first_seen + self._clock_skew

    def _barriers(self, images: Sequence[ImageKey], until: int) -> list[Put]:
        return [Put(image, barrier=until) for image in images]

    def _repeated(self, request: RequestKey, first_seen: int, until: int) -> Forgotten:
        now, counts = now_us(), self.index.counts_of(request)
        images, matched = (counts.erased, counts.matched) if counts else (0, None)
        return Forgotten(first_seen, until, now, now, images, matched, repeated=True)

    def _expansion(
        self, labels: Sequence[Selector], around: Sequence[Surroundings]
    ) -> Iterator[Sequence[ImageKey]]:
        index = self.index
        for selector in labels:
            yield from index.images_with_label(selector.value)
        for one in around:
            yield from index.images_near(list(map(index.image_key, one.images)), one.distance)

    def _fence(
        self, fences: Sequence[SelectorKey], expanded: Sequence[ImageKey], until: int
    ) -> None:
        for fence in fences:
            self.index.fence(fence, until)
        self._fence_log.append(
            # A rebuilt memory would expand a label into others.
            [
                *(Barrier(image, until) for image in expanded),
                *(Fence(fence, until) for fence in fences),
            ]
        )

    def _note_dying(self, request: RequestKey, images: Sequence[ImageKey], until: int) -> None:
        """Those of the images that will be erased, noted before: who ends then counts them all the same."""
        if dying := list(compress(images, self.index.dying(images, until))):
            self.index.note_dying(request, dying)

    def apply(self, facts: Iterable[FenceFact]) -> None:
        """Take facts of forgetting from the log, as a new or an older memory must."""
        take(self.index, facts)

    def knows(self, position: Position) -> bool:
        """Whether a position is in the logs this memory is made from, in a partition it knows of."""
        return position.topic_id in self._logs and (
            self._partitions is None
            or position.partition < self._partitions
            or position.log_partition in self.index.positions()
        )

    def has_lost(self, positions: Iterable[Position]) -> bool:
        """Whether one of these is, or may be, in a part of its log that was cut off."""
        cuts = self.index.cuts()
        return any(
            position.offset >= cut.offset and (position.time is None or position.time <= cut.time)
            for position in positions
            for cut in cuts.get(position.log_partition, ())
        )

    def recall(self, queries: Sequence[Query]) -> list[Prediction | Rejected]:
        """Answer questions together, from what is merged up to the positions told, at least.

        What a question supposes holds for it alone. It is `Rejected` where it excludes what the
        memory does not show, or everything.
        """
        return self._recall(queries)

    def review(self, asked: Review) -> Findings | Rejected:
        """Look the memory through: see `Review`. `Rejected` where wrong counts are needed and not there."""
        return review(self.index, asked)

    def write_influence(self) -> None:
        """Write down how often items voted and decided since this was last called."""
        self.index.add_influence(self._recall.uses.take())
