"""What the memory holds of an image, and what a merge does. Immutable values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memory.model.events import LogAddress
from memory.model.keys import ImageKey, SelectorKey
from memory.model.times import NEVER, Stamp
from memory.model.vectors import Vector


@dataclass(frozen=True, slots=True)
class Trace:
    """What an ingest left in the memory. `vector` has unit length, shape (dim,)."""

    image_id: str
    image_digest: str
    label: str
    source: str
    subjects: tuple[str, ...]
    attributes: Mapping[str, str]
    embedder: str
    vector: Vector


@dataclass(frozen=True, slots=True)
class Item:
    """One image as the memory holds it. A register that was never set has the stamp ""."""

    barrier: int
    trace_stamp: str
    trace: Trace | None
    corrected_stamp: str
    corrected: str | None
    selectors: frozenset[SelectorKey]
    log: frozenset[LogAddress]
    outbox: frozenset[LogAddress]
    pruned_stamp: str = ""
    pruned: bool = False

    @property
    def shown(self) -> bool:
        """Whether answers may rest on it."""
        return self.trace is not None and not self.pruned

    @property
    def label(self) -> str | None:
        """The label that counts: the corrected one if there is one."""
        if self.corrected is not None:
            return self.corrected
        return self.trace.label if self.trace else None


@dataclass(frozen=True, slots=True)
class TraceWrite:
    """An image's trace, to stand unless one of a greater stamp does."""

    stamp: Stamp
    trace: Trace


@dataclass(frozen=True, slots=True)
class CorrectionWrite:
    """A person's label (None withdraws one), to stand unless one of a greater stamp does."""

    stamp: Stamp
    label: str | None


@dataclass(frozen=True, slots=True)
class PruningWrite:
    """Whether an image is left out of all answers, to stand unless one of a greater stamp does."""

    stamp: Stamp
    pruned: bool


@dataclass(frozen=True, slots=True)
class Put:
    """One merge into one image's slot (design, "The law", `put`).

    Without `write` it raises the barrier (µs) or notes an address or selectors alone.
    """

    image: ImageKey
    barrier: int = NEVER
    address: LogAddress | None = None
    selectors: tuple[SelectorKey, ...] = ()
    write: TraceWrite | CorrectionWrite | PruningWrite | None = None


@dataclass(frozen=True, slots=True)
class PutResult:
    """What a merge did.

    `barrier`: the item's barrier after it, µs. `won`: the given register's value stands now
    because of this or an earlier equal put. `erased`: a live register was erased by it.
    `outbox`: addresses awaiting a tombstone. `sources`: how many ever sent an image of this id.
    """

    barrier: int
    won: bool
    erased: bool
    visible: bool
    outbox: int
    sources: int = 0


@dataclass(frozen=True, slots=True)
class OpenedRequest:
    """A forget-request: when it was first seen, µs, and whether it is carried out already.

    `results` are those of what was to be put as it was opened, None where nothing of it was.
    """

    first_seen: int
    closed: bool
    results: Sequence[PutResult] | None


@dataclass(frozen=True, slots=True)
class Stats:
    """Sizes: searchable items, corrections waiting for their image, bytes used by the store.

    `bytes_limit` is what the store may use at most, 0 where it has no limit. `pruned` counts the items
    that are there but left out.
    """

    items: int
    waiting_corrections: int
    barriers: int
    bytes: int
    bytes_limit: int = 0
    pruned: int = 0


@dataclass(frozen=True, slots=True)
class Digests:
    """SHA-256, hex, of what the memory shows and of all it must keep (design, "State").

    `shared_ids` counts the items whose id came from more than one source.
    """

    visible: str
    full: str
    shared_ids: int
