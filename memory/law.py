"""The law: the memory's state is a pure function of the set of admitted events.

Every function here is a join (commutative, associative, idempotent) and touches one slot, so
order, grouping, repetition and the number of workers never matter. memory/law.lua is the same
law as Redis functions; tests hold the two together, event by event.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from memory.errors import Reason, Rejected
from memory.model import (
    FOREVER,
    NEVER,
    Correction,
    Digests,
    Forget,
    Ingest,
    Item,
    Put,
    PutResult,
    Selector,
    SelectorKind,
    Stamp,
    Trace,
    canonical_json,
    stamp_time,
)

EMPTY = Item(
    barrier=NEVER,
    trace_stamp="",
    trace=None,
    corrected_stamp="",
    corrected=None,
    selectors=frozenset(),
    log=frozenset(),
    outbox=frozenset(),
)


@dataclass(slots=True)
class State:
    """All of a memory, by keyed digests: items by image, postings and fences by selector."""

    items: dict[str, Item] = field(default_factory=dict)
    postings: dict[str, set[str]] = field(default_factory=dict)
    fences: dict[str, int] = field(default_factory=dict)


def enlist(state: State, selector: str, image: str) -> int:
    """List an image under a selector; returns the selector's fence, µs (-1: none)."""
    state.postings.setdefault(selector, set()).add(image)
    return state.fences.get(selector, NEVER)


def fence(state: State, selector: str, until: int) -> None:
    """Raise a selector's fence. Its postings are scanned afterwards."""
    state.fences[selector] = max(state.fences.get(selector, NEVER), until)


def merge(item: Item, put: Put) -> Item:
    """The item after a put: registers keep the greatest stamp, barriers rise, the dead go."""
    barrier = max(item.barrier, put.barrier)
    log = item.log | {put.address} if put.address else item.log
    merged = replace(item, barrier=barrier, selectors=item.selectors | set(put.selectors), log=log)
    if put.stamp is not None and put.trace is not None and item.trace_stamp < put.stamp:
        merged = replace(merged, trace_stamp=put.stamp, trace=put.trace)
    if put.stamp is not None and put.correction and item.corrected_stamp < put.stamp:
        merged = replace(merged, corrected_stamp=put.stamp, corrected=put.corrected)
    if merged.trace_stamp and stamp_time(Stamp(merged.trace_stamp)) <= barrier:
        merged = replace(merged, trace_stamp="", trace=None)
    if merged.corrected_stamp and stamp_time(Stamp(merged.corrected_stamp)) <= barrier:
        merged = replace(merged, corrected_stamp="", corrected=None)
    dead = {address for address in merged.log if address.time <= barrier}
    return replace(merged, log=merged.log - dead, outbox=merged.outbox | dead)


def put(state: State, change: Put) -> PutResult:
    """Merge into one image's slot."""
    before = state.items.get(change.image, EMPTY)
    after = merge(before, change)
    if after != EMPTY:
        state.items[change.image] = after
    stands = after.trace_stamp if change.trace else after.corrected_stamp
    return PutResult(
        barrier=after.barrier,
        won=change.stamp is not None and stands == change.stamp,
        erased=bool(
            (before.trace_stamp and not after.trace_stamp)
            or (before.corrected_stamp and not after.corrected_stamp)
        ),
        visible=after.trace is not None,
        selectors=after.selectors,
        outbox=len(after.outbox),
    )


@dataclass(frozen=True, slots=True)
class Keys:
    """How plain names become keyed digests; the index's own functions."""

    image: Callable[[str], str]
    selector: Callable[[Selector], str]


@dataclass(frozen=True, slots=True)
class Admitted:
    """An admitted event of the log. A label's forget is admitted as `expansion`: image keys."""

    event: Ingest | Correction | Forget
    until: int = NEVER
    expansion: frozenset[str] = frozenset()


def rebuild(events: Iterable[Admitted], keys: Keys, trace_of: Callable[[Ingest], Trace]) -> State:
    """The state of a set of admitted events, computed in one batch."""
    state = State()
    for admitted in events:
        event = admitted.event
        if isinstance(event, Ingest):
            image = keys.image(event.image_id)
            selectors = tuple(map(keys.selector, event.selectors))
            barrier = max(enlist(state, selector, image) for selector in selectors)
            put(
                state,
                Put(image, barrier, event.address, selectors, event.stamp, trace_of(event)),
            )
        elif isinstance(event, Correction):
            put(
                state,
                Put(
                    keys.image(event.image_id),
                    address=event.address,
                    stamp=event.stamp,
                    correction=True,
                    corrected=event.label,
                ),
            )
        else:
            for image in forgotten_images(state, admitted, keys):
                put(state, Put(image, barrier=admitted.until))
    return state


def forgotten_images(state: State, admitted: Admitted, keys: Keys) -> Sequence[str]:
    """Images that a forget reaches now, its fence raised first."""
    if not isinstance(admitted.event, Forget):
        raise TypeError("only a forget reaches images")
    selector = admitted.event.selector
    if selector.kind is SelectorKind.IMAGE:
        return [keys.image(selector.value)]
    if selector.kind is SelectorKind.LABEL:
        return sorted(admitted.expansion)
    key = keys.selector(selector)
    fence(state, key, admitted.until)
    return sorted(state.postings.get(key, ()))


def until_of(request: Forget, first_seen: int, clock_skew: int) -> int:
    """Up to when what a request names is dead, µs."""
    return FOREVER if request.permanent else first_seen + clock_skew


def digests(items: Mapping[str, Item], fences: Mapping[str, int]) -> Digests:
    """What the memory shows, and all it must keep. Vector bytes never take part.

    The full digest lists an image under the selectors its admitted events bore.
    """
    visible: list[str] = []
    full: list[str] = []
    for image, item in items.items():
        if item.trace_stamp or item.corrected_stamp:
            visible.append(
                canonical_json(
                    [
                        image,
                        item.trace_stamp,
                        item.corrected_stamp,
                        item.label,
                        item.trace.image_digest if item.trace else None,
                        item.trace.embedder if item.trace else None,
                    ]
                )
            )
        full.append(canonical_json([image, item.barrier, sorted(item.selectors)]))
    full.extend(canonical_json([selector, until]) for selector, until in fences.items())
    return Digests(visible=_sha256(visible), full=_sha256([*visible, *full]))


def _sha256(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def check_trace(trace: Trace, embedder: str, dim: int) -> None:
    """Refuse a vector that this memory must not hold."""
    if trace.embedder != embedder:
        raise Rejected(Reason.OTHER_EMBEDDER, f"this memory's vectors come from {embedder}")
    if trace.vector.shape != (dim,):
        raise Rejected(Reason.WRONG_DIMENSION, f"this memory's vectors have {dim} elements")
    if not np.isfinite(trace.vector).all():
        raise Rejected(Reason.NOT_FINITE, "the vector has NaN or infinite elements")
    if not trace.vector.any():
        raise Rejected(Reason.ZERO_VECTOR, "the vector is zero; it has no direction")
