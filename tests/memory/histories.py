"""Generated histories of admitted events, and a scheduler of the workers that carry them.

A worker's way through an event is a generator that stops between its steps, so that hypothesis
decides what happens between them: another worker's step, a crash (the generator is dropped and
the event delivered again from its start), a repeat.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from memory.errors import Rejected
from memory.exact.index import ExactIndex
from memory.model import merge
from memory.model.events import (
    Correction,
    Forget,
    Ingest,
    LogAddress,
    Prune,
    Selector,
    SelectorKind,
    VectorPayload,
)
from memory.model.keys import ImageKey
from memory.model.state import CorrectionWrite, Digests, Item, PruningWrite, Put, Trace, TraceWrite
from memory.model.times import NEVER, make_stamp
from memory.ports import MemoryIndex
from tests.memory import oracle
from tests.memory.oracle import Admitted

DIM = 4
KEY = bytes(range(32))
EMBEDDER = "test"
LAST = 9
"""The greatest time of an event, and the until of any forget that is not permanent."""
IMAGES = ("i0", "i1", "i2")
SUBJECTS = ("ada", "bob")
SOURCES = ("camera", "archive")
# Differ only where TAGs, JSON and Redis' query language might not look.
LABELS = ("cat", "Cat", "a,b {|}", "猫")
ATTRIBUTES = ("lens", "a b")
WORKERS = 3
CRASHES = 4

CONTENTS = DIM
"""Different pictures of an image. One more has a payload that no memory takes."""

times = st.integers(1, LAST)
# Made once: hypothesis takes longer to make a strategy than to draw from it.
_images, _labels = st.sampled_from(IMAGES), st.sampled_from(LABELS)
_sources = st.sampled_from(SOURCES)
_subjects = st.lists(st.sampled_from(SUBJECTS), unique=True, max_size=2)
_contents = st.integers(0, CONTENTS)
_attributes = st.dictionaries(st.sampled_from(ATTRIBUTES), _labels)
_said = st.none() | _labels
_selectors = st.sampled_from(
    [
        *(Selector(SelectorKind.IMAGE, image) for image in IMAGES),
        *(Selector(SelectorKind.SUBJECT, subject) for subject in SUBJECTS),
        *(Selector(SelectorKind.SOURCE, source) for source in SOURCES),
        Selector(SelectorKind.LABEL, LABELS[0]),
    ]
)
_booleans = st.booleans()
_tens = st.integers(0, 9)
_expansions = st.sets(_images)


def exact() -> ExactIndex:
    return ExactIndex(embedder=EMBEDDER, dim=DIM, hmac_key=KEY)


KEYS = oracle.Keys(exact().image_key, exact().selector_key)


def address(time: int, *parts: object) -> LogAddress:
    return LogAddress(time, "topic", 0, hashlib.sha256(repr(parts).encode()).hexdigest())


@st.composite
def ingests(draw: st.DrawFn) -> Admitted:
    time, image, label = draw(times), draw(_images), draw(_labels)
    source = draw(_sources)
    subjects = tuple(draw(_subjects))
    content = draw(_contents)
    attributes = draw(_attributes)
    vector = np.eye(CONTENTS + 1, DIM, dtype=np.float32)[content]  # the last one is zero
    # Two events that differ in nothing else are one event, so the stamp covers them here.
    told = sorted(f"{name}={value}" for name, value in attributes.items())
    stamp = make_stamp(time, source, image, label, *subjects, str(content), *told)
    return Admitted(
        Ingest(
            stamp=stamp,
            image_id=image,
            label=label,
            source=source,
            payload=VectorPayload(vector, EMBEDDER),
            payload_digest=f"digest {content}",
            subjects=subjects,
            attributes=attributes,
            address=address(time, stamp),
        )
    )


@st.composite
def corrections(draw: st.DrawFn) -> Admitted:
    time, image, label = draw(times), draw(_images), draw(_said)
    stamp = make_stamp(time, "reviewer", image, label)
    return Admitted(Correction(stamp, image, label, address(time, stamp)))


@st.composite
def prunings(draw: st.DrawFn) -> Admitted:
    time, image, pruned = draw(times), draw(_images), draw(_booleans)
    stamp = make_stamp(time, "operator", image, str(pruned))
    return Admitted(Prune(stamp, image, pruned, address(time, stamp)))


@st.composite
def forgets(draw: st.DrawFn) -> Admitted:
    selector = draw(_selectors)
    time, permanent = draw(times), draw(_tens) == 9
    request = Forget(f"{selector} {time} {permanent}", selector, time, permanent)
    until = oracle.until_of(request, request.time, clock_skew=0)
    expansion: frozenset[ImageKey] = frozenset()
    if selector.kind is SelectorKind.LABEL:
        # What a label found when it was expanded depends on the moment; it is part of the event.
        expansion = frozenset(map(KEYS.image, draw(_expansions)))
    return Admitted(request, until, expansion)


History = list[Admitted]

histories: st.SearchStrategy[History] = st.lists(
    st.one_of(ingests(), ingests(), corrections(), forgets()), min_size=3, max_size=14
)
with_prunings: st.SearchStrategy[History] = st.lists(
    st.one_of(ingests(), ingests(), corrections(), prunings(), prunings(), forgets()),
    min_size=3,
    max_size=14,
)
schedules = st.binary(min_size=80, max_size=200)
"""Choices, in turn; when they are used up the first option is taken.

The least size matters: without one hypothesis draws five choices on average.
"""


def trace_of(event: Ingest) -> Trace | None:
    """What an ingest leaves, as a memory of half precision holds it; None if that is refused."""
    assert isinstance(event.payload, VectorPayload)
    if not event.payload.vector.any():
        return None
    return Trace(
        image_id=event.image_id,
        image_digest=event.payload_digest,
        label=event.label,
        source=event.source,
        subjects=event.subjects,
        attributes=event.attributes,
        embedder=EMBEDDER,
        vector=event.payload.vector.astype(np.float16).astype(np.float32),
    )


class Steps:
    """What a worker does with an event, stopping after each step (design, "The law")."""

    def carry(self, index: MemoryIndex, admitted: Admitted) -> Iterator[None]:
        match admitted.event:
            case Ingest() as event:
                return self.ingest(index, event)
            case Correction() as event:
                write: CorrectionWrite | PruningWrite = CorrectionWrite(event.stamp, event.label)
                return self.write(index, event, write)
            case Prune() as event:
                return self.write(index, event, PruningWrite(event.stamp, event.pruned))
            case _:
                return self.forget(index, admitted)

    def ingest(self, index: MemoryIndex, event: Ingest) -> Iterator[None]:
        image = index.image_key(event.image_id)
        selectors = tuple(map(index.selector_key, event.selectors))
        (barrier,) = index.enlist([(selectors, image)])
        assert not isinstance(barrier, Rejected)
        yield
        yield from self.merge(index, event, barrier)

    def merge(self, index: MemoryIndex, event: Ingest, barrier: int) -> Iterator[None]:
        selectors = tuple(map(index.selector_key, event.selectors))
        put = Put(index.image_key(event.image_id), barrier, event.address, selectors)
        trace = trace_of(event) if event.time > barrier else None
        if trace:
            put = replace(put, write=TraceWrite(event.stamp, trace))
        index.put([put])
        yield

    def write(
        self, index: MemoryIndex, event: Correction | Prune, write: CorrectionWrite | PruningWrite
    ) -> Iterator[None]:
        index.put([Put(index.image_key(event.image_id), address=event.address, write=write)])
        yield

    def forget(self, index: MemoryIndex, admitted: Admitted) -> Iterator[None]:
        assert isinstance(admitted.event, Forget)
        selector, until = admitted.event.selector, admitted.until
        if selector.kind is SelectorKind.IMAGE:
            reached = [index.image_key(selector.value)]
        elif selector.kind is SelectorKind.LABEL:
            reached = sorted(admitted.expansion)
        else:
            key = index.selector_key(selector)
            index.fence(key, until)
            yield
            reached = [image for page in index.images_with_selector(key) for image in page]
            yield
        for image in reached:
            index.put([Put(image, until)])
            yield


class Admitting(Steps):
    """Every other image, as one whose vector is ready, is listed and put in one step."""

    def ingest(self, index: MemoryIndex, event: Ingest) -> Iterator[None]:
        if int(event.stamp[-1], 16) % 2:
            yield from super().ingest(index, event)
            return
        selectors = tuple(map(index.selector_key, event.selectors))
        put = Put(index.image_key(event.image_id), NEVER, event.address, selectors)
        if trace := trace_of(event):
            put = replace(put, write=TraceWrite(event.stamp, trace))
        (result,) = index.admit([put])
        assert not isinstance(result, Rejected)
        yield


def carry(
    history: Sequence[Admitted],
    schedule: bytes,
    indexes: Sequence[MemoryIndex],
    steps: Steps,
) -> None:
    """Deliver every event at least once, each worker over its own connection."""
    choices = iter(schedule)

    def choose(options: int) -> int:
        return next(choices, 0) % options

    waiting = [event for event in history for _ in range(1 + (choose(4) == 3))]
    active: list[tuple[Admitted, Iterator[None]]] = []
    crashes = started = 0
    while waiting or active:
        room = bool(waiting) and len(active) < WORKERS
        pick = choose(len(active) + room)
        if pick == len(active):
            event = waiting.pop(choose(len(waiting)))
            active.append((event, steps.carry(indexes[started % len(indexes)], event)))
            started += 1
        elif crashes < CRASHES and choose(8) == 7:
            crashes += 1
            waiting.append(active.pop(pick)[0])
        elif next(active[pick][1], _DONE) is _DONE:
            active.pop(pick)


_DONE = object()


def described(item: Item | None) -> object:
    """An item as plain values that can be compared, its vector too."""
    if item is None:
        return None
    values = {f.name: getattr(item, f.name) for f in fields(item)}
    if item.trace:
        trace = {f.name: getattr(item.trace, f.name) for f in fields(item.trace)}
        values["trace"] = trace | {"vector": item.trace.vector.tobytes()}
    return values


def rebuilt(history: Sequence[Admitted]) -> merge.State:
    return oracle.rebuild(history, KEYS, trace_of)


def digests(state: merge.State) -> Digests:
    return merge.digests(state.items, state.fences)


def property_of(
    open_indexes: Callable[[], Sequence[MemoryIndex]],
    *,
    examples: int,
    steps: Steps | None = None,
    keep: Callable[[Admitted], bool] = lambda _event: True,
    search_only: bool = False,
    drawn: st.SearchStrategy[History] = histories,
) -> Callable[[], None]:
    """The law, as a test: whatever the schedule, a history ends in the batch rebuild of it.

    `open_indexes` gives connections to one empty memory. `search_only` neither shrinks nor
    explains a failure: it is wanted only that there is one.
    """

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate] if search_only else [Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(drawn, schedules)
    def ends_in_the_batch_rebuild(history: History, schedule: bytes) -> None:
        history = list(filter(keep, history))
        indexes = open_indexes()
        carry(history, schedule, indexes, steps or Steps())
        state = rebuilt(history)
        assert indexes[0].digests() == digests(state)
        for image in map(KEYS.image, IMAGES):
            assert described(indexes[0].item(image)) == described(state.items.get(image))

    return ends_in_the_batch_rebuild


class EnlistAfterPut(Steps):
    """A mistake: a fence raised and scanned between the two is seen by neither."""

    def ingest(self, index: MemoryIndex, event: Ingest) -> Iterator[None]:
        yield from self.merge(index, event, NEVER)
        selectors = tuple(map(index.selector_key, event.selectors))
        index.enlist([(selectors, index.image_key(event.image_id))])
        yield


class ScanBeforeFence(Steps):
    """A mistake: an image enlisted between the two is seen by neither."""

    def forget(self, index: MemoryIndex, admitted: Admitted) -> Iterator[None]:
        assert isinstance(admitted.event, Forget)
        selector = admitted.event.selector
        if selector.kind in (SelectorKind.IMAGE, SelectorKind.LABEL):
            yield from super().forget(index, admitted)
            return
        key = index.selector_key(selector)
        reached = [image for page in index.images_with_selector(key) for image in page]
        yield
        index.fence(key, admitted.until)
        yield
        for image in reached:
            index.put([Put(image, admitted.until)])
            yield


class RefusedIsForgotten(Steps):
    """A mistake: what a refused event bore is not kept, so a later forget misses its image."""

    def merge(self, index: MemoryIndex, event: Ingest, barrier: int) -> Iterator[None]:
        if event.time > barrier:
            yield from super().merge(index, event, barrier)


WRONG_STEPS = [EnlistAfterPut, ScanBeforeFence, RefusedIsForgotten]
