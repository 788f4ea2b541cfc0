"""The law: the memory's state is a pure function of the set of admitted events.

Every function here is a join (commutative, associative, idempotent) and touches one slot, so
order, grouping, repetition and the number of workers never matter. memory/redis/law.lua is the same
law as Redis functions; tests hold the two together, event by event.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.errors import Reason, Rejected
from memory.model.events import Correction, Forget, Ingest, Selector, SelectorKind
from memory.model.state import Digests, Item, Put, PutResult, Trace
from memory.model.text import canonical_json
from memory.model.times import FOREVER, NEVER, Stamp, stamp_time

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


def rebuild(
    events: Iterable[Admitted], keys: Keys, trace_of: Callable[[Ingest], Trace | None]
) -> State:
    """The state of a set of admitted events, straight from its definition.

    Shares nothing with `put`, `enlist` and `fence`, so that a mistake in them shows. `trace_of`
    makes what an ingest leaves in the memory, or None of a payload that no memory takes: its image
    bore the selectors all the same, since a forget that comes first never looks at the payload.
    """
    state = State()
    ingests: dict[str, list[Ingest]] = {}
    corrections: dict[str, list[Correction]] = {}
    bore: dict[str, set[str]] = {}
    forgets: list[Admitted] = []
    for admitted in events:
        match admitted.event:
            case Ingest() as event:
                image = keys.image(event.image_id)
                ingests.setdefault(image, []).append(event)
                for selector in map(keys.selector, event.selectors):
                    bore.setdefault(image, set()).add(selector)
                    state.postings.setdefault(selector, set()).add(image)
            case Correction() as event:
                corrections.setdefault(keys.image(event.image_id), []).append(event)
            case _:
                forgets.append(admitted)
    barriers = _barriers(state, forgets, keys)
    for image in ingests.keys() | corrections.keys() | barriers.keys():
        barrier = barriers.get(image, NEVER)
        seen = ingests.get(image, ())
        said = corrections.get(image, ())
        addresses = frozenset(event.address for event in (*seen, *said) if event.address)
        traces = {e.stamp: trace for e in seen if e.time > barrier and (trace := trace_of(e))}
        trace_stamp = max(traces, default=Stamp(""))
        corrected = max((e for e in said if e.time > barrier), key=lambda c: c.stamp, default=None)
        state.items[image] = Item(
            barrier=barrier,
            trace_stamp=trace_stamp,
            trace=traces.get(trace_stamp),
            corrected_stamp=corrected.stamp if corrected else "",
            corrected=corrected.label if corrected else None,
            selectors=frozenset(bore.get(image, ())),
            log=frozenset(address for address in addresses if address.time > barrier),
            outbox=frozenset(address for address in addresses if address.time <= barrier),
        )
    return state


def _barriers(state: State, forgets: Iterable[Admitted], keys: Keys) -> dict[str, int]:
    """Up to when each image is dead. Enters the fences into `state`."""
    reached: list[tuple[Iterable[str], int]] = []
    for admitted in forgets:
        if not isinstance(admitted.event, Forget):
            raise TypeError("only a forget reaches images")
        selector, until = admitted.event.selector, admitted.until
        if selector.kind is SelectorKind.IMAGE:
            reached.append(([keys.image(selector.value)], until))
        elif selector.kind is SelectorKind.LABEL:
            reached.append((admitted.expansion, until))
        else:
            fenced = keys.selector(selector)
            state.fences[fenced] = max(state.fences.get(fenced, NEVER), until)
    reached += [(state.postings.get(fenced, ()), until) for fenced, until in state.fences.items()]
    barriers: dict[str, int] = {}
    for images, until in reached:
        for image in images:
            barriers[image] = max(barriers.get(image, NEVER), until)
    return barriers


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


def stored_vector(
    trace: Trace, embedder: str, dim: int, dtype: npt.DTypeLike
) -> npt.NDArray[np.floating[Any]]:
    """The trace's vector in the element type a memory stores, shape (dim,).

    Raises `Rejected` for what a memory must not hold: its distances would mean nothing.
    """
    if trace.embedder != embedder:
        raise Rejected(Reason.OTHER_EMBEDDER, f"this memory's vectors come from {embedder}")
    if trace.vector.shape != (dim,):
        raise Rejected(Reason.WRONG_DIMENSION, f"this memory's vectors have {dim} elements")
    with np.errstate(over="ignore"):  # refused by the next line, if the vector is not of length 1
        stored: npt.NDArray[np.floating[Any]] = trace.vector.astype(dtype)
    if not np.isfinite(stored).all():
        raise Rejected(Reason.NOT_FINITE, "the vector has NaN or infinite elements")
    if not stored.any():
        raise Rejected(Reason.ZERO_VECTOR, "the vector is zero; it has no direction")
    return stored
