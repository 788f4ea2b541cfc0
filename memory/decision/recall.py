"""How a question is answered: its vector, a search, a vote, and if it is asked, why."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from memory.decision.explaining import explain
from memory.decision.influence import UseCounts, deciding
from memory.decision.voting import FactorOf, tally, vote_of
from memory.embedders.payloads import Observe, PayloadEmbedder
from memory.errors import Reason, Rejected
from memory.model.answers import Position, Prediction, SearchResult
from memory.model.events import Selector, SelectorKind
from memory.model.keys import SelectorKey
from memory.model.questions import MAX_REMOVED, Exclusion, Factors, ItemRef, Probe, Query
from memory.model.reliability import Pruning, WrongCounts
from memory.model.vectors import Vector
from memory.ports import MemoryIndex

UNKNOWN_ITEM = Rejected(Reason.UNKNOWN_ITEM, "the memory holds no such item")
NOT_COUNTED = Rejected(
    Reason.NOT_COUNTED,
    "how reliable items are is not counted here, or not yet; ask without pruning, or later",
)
OPPOSITE = 1e-6
"""A sum of vectors of length 1 that is shorter than this is nothing but what they were rounded by."""


class Recall:
    """Answers questions together. `logs` names the topics, by topic id, whose positions answers carry.

    `pruning` and `min_share` are what counts where a question says nothing of it.
    """

    def __init__(
        self,
        index: MemoryIndex,
        payloads: PayloadEmbedder,
        *,
        logs: Mapping[str, str],
        observe: Observe,
        pruning: Pruning,
        min_share: float,
    ) -> None:
        self._index = index
        self._payloads = payloads
        self._logs = logs
        self._observe = observe
        self._pruning = pruning
        self._min_share = min_share
        self.uses = UseCounts()

    def __call__(self, queries: Sequence[Query]) -> list[Prediction | Rejected]:
        """See `VisualMemory.recall`."""
        started = time.perf_counter()
        vectors = self._vectors(queries)
        embedded = time.perf_counter()
        counts = self._index.wrong_counts()
        probes = [self._probe(*asked, counts) for asked in zip(queries, vectors, strict=True)]
        positions, found = self._index.search_as_of(
            [probe for probe in probes if not isinstance(probe, Rejected)]
        )
        as_of = tuple(
            Position(self._logs[topic_id], topic_id, partition, offset)
            for (topic_id, partition), offset in sorted(positions.items())
            if topic_id in self._logs
        )
        searched = time.perf_counter() - embedded
        self._observe("search", searched)
        timings = {"embed": embedded - started, "search": searched}
        results = iter(found)
        return [
            probe
            if isinstance(probe, Rejected)
            else self._predict(query, next(results), counts, as_of, timings)
            for query, probe in zip(queries, probes, strict=True)
        ]

    def _predict(
        self,
        query: Query,
        found: SearchResult,
        counts: WrongCounts | None,
        as_of: tuple[Position, ...],
        timings: Mapping[str, float],
    ) -> Prediction | Rejected:
        started = time.perf_counter()
        supposed, pruning = query.what_if, self._pruning_of(query, counts)
        factor_of = _factor_of(supposed.weights, counts if pruning is Pruning.SOFT else None)
        says = tally(found.hits, query.rule, k=query.k, factor_of=factor_of)
        votes = vote_of(says, found.hits, query.rule, factor_of=factor_of)
        if supposed.without and not found.hits:
            return Rejected(Reason.NOTHING_LEFT, "what is excluded leaves no item to ask")
        if found.hits and votes.label is None:
            return Rejected(
                Reason.NOTHING_LEFT,
                "the weights leave no neighbour a say; exclude them, so that others move up",
            )
        least = self._min_share if query.min_share is None else query.min_share
        why = None
        if votes.label is not None and (query.why or not supposed):
            if query.why:
                why = explain(says, found.hits, votes.label)
            if not supposed:
                voters = [neighbor.image_id for neighbor in votes.neighbors]
                self.uses.add(voters, deciding(says, votes.label))
        voted = time.perf_counter() - started
        self._observe("vote", voted)
        return Prediction(
            vote=votes,
            rule=query.rule,
            k=query.k,
            exact=found.exact,
            embedder=self._index.embedder,
            as_of=as_of,
            timings={**timings, "vote": voted},
            why=why,
            supposed=bool(supposed),
            pruning=pruning,
            reliability_age=counts.age if counts and pruning is not Pruning.NONE else None,
            abstained=votes.label is not None and votes.shares[votes.label] < least,
        )

    def _pruning_of(self, query: Query, counts: WrongCounts | None) -> Pruning:
        """What is done: the memory's own way only once there are counts."""
        if query.pruning is None:
            return Pruning.NONE if counts is None else self._pruning
        return query.pruning

    def _probe(
        self, query: Query, vector: Vector | Rejected, counts: WrongCounts | None
    ) -> Probe | Rejected:
        if isinstance(vector, Rejected):
            return vector
        if counts is None and query.pruning not in (None, Pruning.NONE):
            return NOT_COUNTED
        without = self._exclusion(query)
        if isinstance(without, Rejected):
            return without
        if counts is not None and self._pruning_of(query, counts) is Pruning.HARD:
            without = replace(without, images=without.images | counts.pruned)
        return Probe(vector, query.k + (MAX_REMOVED if query.why else 1), without)

    def _exclusion(self, query: Query) -> Exclusion | Rejected:
        """What takes no part: what is named, and the item that is asked with.

        An exclusion of what the memory does not show is a mistake in spelling, which must be said.
        """
        index, named = self._index, query.what_if.without
        asked = frozenset(map(index.image_key, _items_asked_with(query)))
        if not named:
            return Exclusion(asked)
        by: dict[SelectorKind, list[Selector]] = {kind: [] for kind in SelectorKind}
        for selector in named:
            by[selector.kind].append(selector)
        ids = [selector.value for selector in by[SelectorKind.IMAGE]]
        labels = [selector.value for selector in by[SelectorKind.LABEL]]
        keys = [
            index.selector_key(selector)
            for kind in (SelectorKind.SUBJECT, SelectorKind.SOURCE)
            for selector in by[kind]
        ]
        known = (
            (not ids or all(index.holds(ids)))
            and (not labels or all(index.label_counts(labels).values()))
            and all(map(self._lists, keys))
        )
        if not known:
            return Rejected(
                Reason.UNKNOWN_EXCLUSION,
                "the memory shows nothing of one of the images, subjects, sources or labels that are "
                "excluded; is it spelt so?",
            )
        images = asked.union(map(index.image_key, ids))
        return Exclusion(images, frozenset(keys), frozenset(labels))

    def _lists(self, selector: SelectorKey) -> bool:
        return any(page for page in self._index.images_with_selector(selector))

    def _vectors(self, queries: Sequence[Query]) -> list[Vector | Rejected]:
        """What each question asks with: an image's, a vector's or an item's, and what it composes."""
        named = [[*_items_asked_with(query), *query.what_if.composed] for query in queries]
        wanted = [image_id for ids in named for image_id in ids]
        stored = iter(self._index.vectors_of(wanted) if wanted else ())
        payloads = [q.payload for q in queries if not isinstance(q.payload, ItemRef)]
        embedded = iter(self._payloads.embed(payloads))
        vectors: list[Vector | Rejected] = []
        for query, ids in zip(queries, named, strict=True):
            items = [next(stored) for _ in ids]
            own = None if isinstance(query.payload, ItemRef) else next(embedded)
            held = [item for item in items if item is not None]
            if isinstance(own, Rejected):
                vectors.append(own)
            elif len(held) < len(items):
                vectors.append(UNKNOWN_ITEM)
            else:
                vectors.append(_composed(query, held if own is None else [own, *held]))
        return vectors


def _factor_of(weights: Factors, counts: WrongCounts | None) -> FactorOf | None:
    if counts is None:
        return weights.of if weights else None
    return lambda image_id, label: weights.of(image_id, label) * counts.factor(image_id)


def _items_asked_with(query: Query) -> list[str]:
    return [query.payload.image_id] if isinstance(query.payload, ItemRef) else []


def _composed(query: Query, vectors: Sequence[Vector]) -> Vector | Rejected:
    """The first vector, with those of what is added and less those of what is subtracted."""
    if len(vectors) == 1:
        return vectors[0]
    rows = np.stack(vectors).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[1 + len(query.what_if.plus) :] *= -1
    total = rows.sum(axis=0)
    length = np.linalg.norm(total)
    if length < OPPOSITE:
        return Rejected(
            Reason.ZERO_VECTOR, "what is added and subtracted leaves a vector without a direction"
        )
    composed: Vector = (total / length).astype(np.float32)
    return composed
