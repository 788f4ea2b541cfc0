"""The law: the memory's state is a pure function of the set of admitted events.

Every function here is a join (commutative, associative, idempotent) and touches one slot, so
order, grouping, repetition and the number of workers never matter. memory/redis/law.lua is the same
law as Redis functions; tests hold the two together, event by event.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from memory.errors import Reason, Rejected
from memory.model.events import MAX_SELECTORS
from memory.model.keys import ImageKey, SelectorKey, count_sources
from memory.model.state import (
    CorrectionWrite,
    Digests,
    Item,
    PruningWrite,
    Put,
    PutResult,
    TraceWrite,
)
from memory.model.text import canonical_json
from memory.model.times import NEVER, Stamp, stamp_time

NO_ROOM = Rejected(
    Reason.TOO_MANY_SUBJECTS,
    f"events about one image may bear {MAX_SELECTORS} subjects and sources in all; "
    "give other images ids of their own",
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


_STAMPS: Mapping[type, str] = {
    TraceWrite: "trace_stamp",
    CorrectionWrite: "corrected_stamp",
    PruningWrite: "pruned_stamp",
}
"""Of each register: what holds the stamp of the value that stands."""


@dataclass(slots=True)
class State:
    """All of a memory, by keyed digests: items by image, postings and fences by selector."""

    items: dict[ImageKey, Item] = field(default_factory=dict)
    postings: dict[SelectorKey, set[ImageKey]] = field(default_factory=dict)
    fences: dict[SelectorKey, int] = field(default_factory=dict)


def enlist(state: State, selector: SelectorKey, image: ImageKey) -> int:
    """List an image under a selector; returns the selector's fence, µs (-1: none)."""
    state.postings.setdefault(selector, set()).add(image)
    return state.fences.get(selector, NEVER)


@dataclass(slots=True)
class Room:
    """How many selectors an image bears, and which of those asked for are new to it."""

    bears: int
    new: set[SelectorKey]

    def take(self, selectors: Collection[SelectorKey]) -> bool:
        """Let the image bear these too, if there is room for all of them."""
        more = self.new.intersection(selectors)
        if more and self.bears + len(more) > MAX_SELECTORS:
            return False
        self.bears += len(more)
        self.new -= more
        return True


def fence(state: State, selector: SelectorKey, until: int) -> None:
    """Raise a selector's fence. Its postings are scanned afterwards."""
    state.fences[selector] = max(state.fences.get(selector, NEVER), until)


def merge(item: Item, put: Put) -> Item:
    """The item after a put: registers keep the greatest stamp, barriers rise, the dead go."""
    barrier = max(item.barrier, put.barrier)
    log = item.log | {put.address} if put.address else item.log
    merged = replace(item, barrier=barrier, selectors=item.selectors | set(put.selectors), log=log)
    match put.write:
        case TraceWrite(stamp, trace) if item.trace_stamp < stamp:
            merged = replace(merged, trace_stamp=stamp, trace=trace)
        case CorrectionWrite(stamp, label) if item.corrected_stamp < stamp:
            merged = replace(merged, corrected_stamp=stamp, corrected=label)
        case PruningWrite(stamp, pruned) if item.pruned_stamp < stamp:
            merged = replace(merged, pruned_stamp=stamp, pruned=pruned)
    if _is_dead(merged.trace_stamp, barrier):
        merged = replace(merged, trace_stamp="", trace=None)
    if _is_dead(merged.corrected_stamp, barrier):
        merged = replace(merged, corrected_stamp="", corrected=None)
    if _is_dead(merged.pruned_stamp, barrier):
        merged = replace(merged, pruned_stamp="", pruned=False)
    dead = {address for address in merged.log if address.time <= barrier}
    return replace(merged, log=merged.log - dead, outbox=merged.outbox | dead)


def _is_dead(stamp: str, barrier: int) -> bool:
    return stamp != "" and stamp_time(Stamp(stamp)) <= barrier


def erases(item: Item, barrier: int) -> bool:
    """Whether this barrier, µs, would erase something of the item."""
    return any(_is_dead(getattr(item, stamp), barrier) for stamp in _STAMPS.values())


def put(state: State, change: Put) -> PutResult:
    """Merge into one image's slot."""
    before = state.items.get(change.image, EMPTY)
    after = merge(before, change)
    if after != EMPTY:
        state.items[change.image] = after
    wrote = change.write
    return PutResult(
        barrier=after.barrier,
        won=wrote is not None and wrote.stamp == getattr(after, _STAMPS[type(wrote)]),
        erased=any(
            getattr(before, stamp) and not getattr(after, stamp) for stamp in _STAMPS.values()
        ),
        visible=after.shown,
        outbox=len(after.outbox),
        sources=count_sources(after.selectors),
    )


def digests(items: Mapping[ImageKey, Item], fences: Mapping[SelectorKey, int]) -> Digests:
    """What the memory shows, and all it must keep. Vector bytes never take part.

    The full digest lists an image under the selectors its admitted events bore.
    """
    visible: list[bytes] = []
    full: list[bytes] = []
    shared_ids = 0
    for image, item in items.items():
        if item.trace_stamp or item.corrected_stamp or item.pruned_stamp:
            visible.append(
                canonical_json(
                    [
                        image,
                        item.trace_stamp,
                        item.corrected_stamp,
                        item.label,
                        item.trace.image_digest if item.trace else None,
                        item.trace.embedder if item.trace else None,
                        # Not there where it never was: digests of older memories stay.
                        *([item.pruned_stamp, item.pruned] if item.pruned_stamp else []),
                    ]
                )
            )
        shared_ids += item.trace is not None and count_sources(item.selectors) > 1
        full.append(canonical_json([image, item.barrier, sorted(item.selectors)]))
    full.extend(canonical_json([selector, until]) for selector, until in fences.items())
    return Digests(_sha256(visible), _sha256([*visible, *full]), shared_ids)


def _sha256(lines: list[bytes]) -> str:
    return hashlib.sha256(b"\n".join(sorted(lines))).hexdigest()
