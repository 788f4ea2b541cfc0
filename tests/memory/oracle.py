"""The memory's state straight from its definition, to hold the law's steps against."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from memory.model.events import (
    Correction,
    Forget,
    Ingest,
    Prune,
    Selector,
    SelectorKind,
    Surroundings,
)
from memory.model.keys import ImageKey, SelectorKey
from memory.model.merge import State
from memory.model.state import Item, Trace
from memory.model.times import FOREVER, NEVER, Stamp


@dataclass(frozen=True, slots=True)
class Keys:
    """How plain names become keyed digests; the index's own functions."""

    image: Callable[[str], ImageKey]
    selector: Callable[[Selector], SelectorKey]


@dataclass(frozen=True, slots=True)
class Admitted:
    """An admitted event of the log. A label's forget is admitted as `expansion`: image keys."""

    event: Ingest | Correction | Prune | Forget
    until: int = NEVER
    expansion: frozenset[ImageKey] = frozenset()


def rebuild(
    events: Iterable[Admitted], keys: Keys, trace_of: Callable[[Ingest], Trace | None]
) -> State:
    """The state of a set of admitted events, straight from its definition.

    Shares nothing with `put`, `enlist` and `fence`, so that a mistake in them shows. `trace_of`
    makes what an ingest leaves in the memory, or None of a payload that no memory takes: its image
    bore the selectors all the same, since a forget that comes first never looks at the payload.
    """
    state = State()
    ingests: dict[ImageKey, list[Ingest]] = {}
    corrections: dict[ImageKey, list[Correction]] = {}
    prunings: dict[ImageKey, list[Prune]] = {}
    bore: dict[ImageKey, set[SelectorKey]] = {}
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
            case Prune() as event:
                prunings.setdefault(keys.image(event.image_id), []).append(event)
            case _:
                forgets.append(admitted)
    barriers = _barriers(state, forgets, keys)
    for image in ingests.keys() | corrections.keys() | prunings.keys() | barriers.keys():
        barrier = barriers.get(image, NEVER)
        seen = ingests.get(image, ())
        said = corrections.get(image, ())
        pruned = prunings.get(image, ())
        addresses = frozenset(e.address for e in (*seen, *said, *pruned) if e.address)
        traces = {e.stamp: trace for e in seen if e.time > barrier and (trace := trace_of(e))}
        trace_stamp = max(traces, default=Stamp(""))
        corrected = max((e for e in said if e.time > barrier), key=lambda c: c.stamp, default=None)
        last = max((e for e in pruned if e.time > barrier), key=lambda p: p.stamp, default=None)
        state.items[image] = Item(
            barrier=barrier,
            trace_stamp=trace_stamp,
            trace=traces.get(trace_stamp),
            corrected_stamp=corrected.stamp if corrected else "",
            corrected=corrected.label if corrected else None,
            selectors=frozenset(bore.get(image, ())),
            log=frozenset(address for address in addresses if address.time > barrier),
            outbox=frozenset(address for address in addresses if address.time <= barrier),
            pruned_stamp=last.stamp if last else "",
            pruned=bool(last and last.pruned),
        )
    return state


def _barriers(state: State, forgets: Iterable[Admitted], keys: Keys) -> dict[ImageKey, int]:
    """Up to when each image is dead. Enters the fences into `state`."""
    reached: list[tuple[Iterable[ImageKey], int]] = []
    for admitted in forgets:
        if not isinstance(admitted.event, Forget):
            raise TypeError("only a forget reaches images")
        selector, until = admitted.event.selector, admitted.until
        if isinstance(selector, Surroundings):
            raise TypeError("no history forgets around images")
        if selector.kind is SelectorKind.IMAGE:
            reached.append(([keys.image(selector.value)], until))
        elif selector.kind is SelectorKind.LABEL:
            reached.append((admitted.expansion, until))
        else:
            fenced = keys.selector(selector)
            state.fences[fenced] = max(state.fences.get(fenced, NEVER), until)
    reached += [(state.postings.get(fenced, ()), until) for fenced, until in state.fences.items()]
    barriers: dict[ImageKey, int] = {}
    for images, until in reached:
        for image in images:
            barriers[image] = max(barriers.get(image, NEVER), until)
    return barriers


def until_of(request: Forget, first_seen: int, clock_skew: int) -> int:
    """Up to when what a request names is dead, µs."""
    return FOREVER if request.permanent else first_seen + clock_skew
