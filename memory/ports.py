"""What the memory needs from outside, as Protocols. Adapters implement them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from memory.errors import Rejected
from memory.model.answers import Effect, Influence, SearchResult, Suspect
from memory.model.events import ClaimPayload, LogPartition, Selector, Surroundings
from memory.model.forgetting import Barrier, FenceFact, Posting, RequestCounts
from memory.model.keys import ImageKey, RequestKey, SelectorKey
from memory.model.logs import NO_WITNESSES, OF_NONE, ByPartition, Cut, Witnesses
from memory.model.questions import Probe
from memory.model.reliability import WrongCounts
from memory.model.state import Digests, Item, OpenedRequest, Put, PutResult, Stats
from memory.model.vectors import Vector

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image


class Embedder(Protocol):
    """Turns images into unit vectors. `digest` covers weights and preprocessing."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def dim(self) -> int: ...

    def embed(self, images: Sequence[Image]) -> npt.NDArray[np.float32]:
        """RGB images to an array (len(images), dim) of float32 rows of length 1."""
        ...


class FenceLog(Protocol):
    """Where the facts of forgetting are kept for ever."""

    def append(self, facts: Sequence[FenceFact]) -> None:
        """Return once every fact is durable, in this order; `Unavailable` otherwise (safe to repeat)."""
        ...


class Fetch(Protocol):
    """Gets the bytes that claims stand for."""

    def __call__(self, claims: Sequence[ClaimPayload]) -> Sequence[bytes | Rejected]:
        """The bytes of each claim, of the SHA-256 that it tells, or why not; in order."""
        ...


class Positions(Protocol):
    """How far the memory has come in the log."""

    def positions(self) -> Mapping[LogPartition, int]:
        """Below which all is merged, in the generation that answers, followed or not: they only rise."""
        ...

    def advance(
        self, positions: ByPartition, youngest: ByPartition = OF_NONE, noted: ByPartition = OF_NONE
    ) -> bool:
        """Move positions forward; never back, so a zombie does no harm.

        No record below them was appended later than the `youngest` of its partition, µs. False, and
        nothing moves, where one is less than was `noted`: the store has forgotten it.
        """
        ...

    def follow(self) -> None:
        """Go over to the generation that answers now; `Misconfigured` where another embedder made it."""
        ...


class LogMarks(Protocol):
    """What the positions rest on: marks by which a log is known again (design, "Positions")."""

    def witnesses(self) -> Witnesses:
        """One at the position, where its youngest is known, and those that were noted."""
        ...

    def note_witnesses(self, witnesses: Witnesses, instead_of: Witnesses = NO_WITNESSES) -> None:
        """These were so in the log that was read; what they are noted instead of is forgotten."""
        ...

    def rewind(self, partition: LogPartition, cut: Cut) -> None:
        """Set the position back to where the log was cut, and keep the cut for ever."""
        ...

    def cuts(self) -> Mapping[LogPartition, Sequence[Cut]]:
        """Where logs were cut."""
        ...


class StateStore(Protocol):
    """What is remembered and forgotten. Every write is a join: safe to repeat, in any order."""

    def image_key(self, image_id: str) -> ImageKey: ...

    def selector_key(self, selector: Selector | Surroundings) -> SelectorKey: ...

    def request_key(self, request_id: str) -> RequestKey: ...

    def due_key(self, request_id: str) -> str: ...

    def enlist(
        self, listings: Sequence[tuple[Sequence[SelectorKey], ImageKey]]
    ) -> list[int | Rejected]:
        """List each image under each of its selectors; of each the greatest of their fences and its barrier, µs.

        -1: none. An image that would bear too many selectors is not listed under these:
        `merge.NO_ROOM`. Who enlists and puts beside this one may pass the limit.
        """
        ...

    def admit(self, puts: Sequence[Put]) -> list[PutResult | Rejected]:
        """`enlist` what each bears and `put` it with the barrier that it met, in one step and round trip.

        `merge.NO_ROOM` where it would bear too many: of that one no more than its address is put.
        """
        ...

    def put(self, puts: Sequence[Put], request: RequestKey | None = None) -> list[PutResult]:
        """Merge each into its slot in one step, durably; note what dies by it for the `request`."""
        ...

    def fence(self, selector: SelectorKey, until: int) -> None:
        """Raise a selector's fence in all its buckets. Works in a full store."""
        ...

    def images_with_selector(self, selector: SelectorKey) -> Iterator[Sequence[ImageKey]]:
        """Images ever listed under a selector, in pages. Call after `fence`."""
        ...

    def untold(self, images: Sequence[ImageKey]) -> list[Barrier | Posting]:
        """Of each image the barrier, and the selectors it ever bore, that `note_told` was not told."""
        ...

    def note_told(self, facts: Sequence[Barrier | Posting]) -> None:
        """The log has these facts: all that `untold` said of their images, or more."""
        ...

    def relist(self, selector: SelectorKey, image: ImageKey) -> None:
        """Apply a `Posting`: list without looking at fences."""
        ...

    def images_with_label(self, label: str) -> Iterator[Sequence[ImageKey]]:
        """The images whose label that counts is `label`, in pages; also those that are pruned."""
        ...

    def images_near(
        self, images: Sequence[ImageKey], distance: float
    ) -> Iterator[Sequence[ImageKey]]:
        """Images within a cosine distance of one of these, exactly, in pages; also those that are pruned.

        These themselves come first, where they have a vector. Reads all vectors where one has.
        """
        ...

    def open_request(
        self, request: RequestKey, time: int, puts: Sequence[Put] = ()
    ) -> OpenedRequest:
        """Remember the earliest time a request was seen. Of an open one, where this is it, `put` too:
        in the same round trip.
        """
        ...

    def expansion(self, request: RequestKey, images: Iterable[ImageKey]) -> frozenset[ImageKey]:
        """Add to the images a request expands into; returns all of them so far."""
        ...

    def dying(self, images: Sequence[ImageKey], until: int) -> list[bool]:
        """Of each image whether something stands that a barrier of `until`, µs, would erase."""
        ...

    def note_dying(self, request: RequestKey, images: Iterable[ImageKey]) -> int:
        """Add to the images of which a request erases something; returns how many there are so far."""
        ...

    def note_counts(self, request: RequestKey, matched: int) -> RequestCounts:
        """Note what a request found: images that died by it, `matched` ever heard of; kept when it is closed."""
        ...

    def counts_of(self, request: RequestKey) -> RequestCounts | None:
        """Those that were noted; None where this memory was made from the log since."""
        ...

    def close_request(self, request: RequestKey, until: int) -> None:
        """A closed request never expands again. Drops its expansion and what it noted as dying."""
        ...


class Search(Protocol):
    """Nearest neighbours among what is remembered."""

    @property
    def embedder(self) -> str:
        """Digest of the embedder whose vectors this index holds."""
        ...

    @property
    def dim(self) -> int: ...

    def search(self, probes: Sequence[Probe]) -> list[SearchResult]:
        """For each probe the nearest items, sorted by (distance, image id).

        Returns exactly min(k, items) hits. A search the store cut short is `Unavailable`, never
        a short answer.
        """
        ...

    def search_as_of(
        self, probes: Sequence[Probe]
    ) -> tuple[Mapping[LogPartition, int], list[SearchResult]]:
        """As `search`, and positions of before it: what is below them is in the answers."""
        ...

    def wrong_counts(self) -> WrongCounts | None:
        """How often items were neighbours of another label; None where nobody counts it (yet)."""
        ...

    def suspects(self) -> Sequence[Suspect]:
        """Items whose neighbours say another label, the clearest first; as of the wrong counts."""
        ...

    def effect_of_pruning(self, least: int) -> Effect | None:
        """What leaving out items of a wrong count of `least` or more would change; None: not counted."""
        ...

    def add_influence(self, used: Mapping[str, tuple[int, int]]) -> None:
        """Add to how often items voted and how often they decided, by image id.

        What is shown no more is passed over: what is forgotten has no counts, nor will it get any.
        """
        ...

    def influence(self, count: int, image_id: str | None = None) -> tuple[int, Sequence[Influence]]:
        """How many items ever voted, and of the `count` that decided and voted most often, or of one
        alone, how often they did.
        """
        ...

    def vectors_of(self, image_ids: Sequence[str]) -> list[Vector | None]:
        """The stored vectors of remembered images, None where there is no visible item."""
        ...

    def holds(self, image_ids: Sequence[str]) -> list[bool]:
        """Of each image whether there is a visible item."""
        ...


class Inspection(Protocol):
    """What operators look at."""

    @property
    def embedder(self) -> str:
        """Digest of the embedder whose vectors this index holds."""
        ...

    def item(self, image: ImageKey) -> Item | None:
        """All that is held of one image."""
        ...

    def digests(self) -> Digests: ...

    def stats(self) -> Stats: ...

    def label_counts(self, labels: Sequence[str] | None = None) -> Mapping[str, int]:
        """Visible items by label; of the given labels only, or of all."""
        ...

    def open_requests(self) -> int:
        """How many forget-requests are not carried out yet."""
        ...

    def oldest_request(self) -> int | None:
        """When the open request that was seen first was, µs; None where none is open."""
        ...


class MonitoredIndex(Positions, LogMarks, Inspection, Protocol):
    """What a monitor needs of an index."""


class MemoryIndex(Positions, LogMarks, StateStore, Search, Inspection, Protocol):
    """A memory's state and its search.

    All methods raise `Unavailable` when the store is away, `Moved` where another generation of
    the memory answers by now. Images and selectors are addressed by keyed digests; plain ids
    live only in erasable fields.
    """

    def ping(self) -> None:
        """Raises `Unavailable` when the store does not answer."""
        ...
