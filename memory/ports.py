"""What the memory needs from outside, as Protocols. Adapters implement them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from memory.errors import Rejected
from memory.model.answers import SearchResult
from memory.model.events import ClaimPayload, Selector
from memory.model.state import Digests, Item, Put, PutResult, Stats
from memory.vectors import Vector

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


@dataclass(frozen=True, slots=True)
class FenceFact:
    """One fact of forgetting that must survive everything else.

    `kind` is ``fence`` (selector, until), ``barrier`` (image, until), ``posting``
    (selector, image) or ``request`` (request, until: closed, never expands again).
    Selectors, images and requests are keyed digests; `until` is µs.
    """

    kind: str
    selector: str = ""
    image: str = ""
    request: str = ""
    until: int = -1


class FenceLog(Protocol):
    """Where the facts of forgetting are kept for ever."""

    def append(self, facts: Sequence[FenceFact]) -> None:
        """Return once every fact is durable; `Unavailable` otherwise (safe to repeat)."""
        ...


class Fetch(Protocol):
    """Gets the bytes that claims stand for."""

    def __call__(self, claims: Sequence[ClaimPayload]) -> Sequence[bytes | Rejected]:
        """The bytes of each claim, of the SHA-256 that it tells, or why not; in order."""
        ...


class Positions(Protocol):
    """How far the memory has come in the log."""

    def positions(self) -> Mapping[tuple[str, int], int]:
        """(topic id, partition) to the offset below which everything is merged.

        Of the generation that answers, also before this index follows: they only rise.
        """
        ...

    def advance(self, positions: Mapping[tuple[str, int], int]) -> None:
        """Move positions forward; never back, so a zombie does no harm."""
        ...

    def follow(self) -> None:
        """Go over to the generation of the memory that answers now, where that is another.

        `Misconfigured` when it was made with another embedder than this process has.
        """
        ...


class MemoryIndex(Positions, Protocol):
    """The memory's state and its search. Every write is a join: safe to repeat, in any order.

    All methods raise `Unavailable` when the store is away, `Moved` where another generation of
    the memory answers by now. Images and selectors are addressed
    by keyed digests from `image_key` and `selector_key`; plain ids live only in erasable fields.
    """

    @property
    def embedder(self) -> str:
        """Digest of the embedder whose vectors this index holds."""
        ...

    @property
    def dim(self) -> int: ...

    def ping(self) -> None:
        """Raises `Unavailable` when the store does not answer."""
        ...

    def image_key(self, image_id: str) -> str:
        """32 hex digits: HMAC of an image id."""
        ...

    def selector_key(self, selector: Selector) -> str:
        """``<kind>:<32 hex digits>``; the digits of an image selector are its `image_key`."""
        ...

    def request_key(self, request_id: str) -> str: ...

    def enlist(self, listings: Sequence[tuple[tuple[str, ...], str]]) -> list[int]:
        """For each (selector keys, image key): list the image under each selector.

        Returns, one for each listing, the greatest of those selectors' fences and the item's
        own barrier (-1: none). One round trip.
        """
        ...

    def put(self, puts: Sequence[Put]) -> list[PutResult]:
        """Merge each into its image's slot, in one round trip. Durable when it returns."""
        ...

    def fence(self, selector: str, until: int) -> None:
        """Raise a selector's fence in all its buckets. Works in a full store."""
        ...

    def listed(self, selector: str) -> Iterator[Sequence[str]]:
        """Image keys ever listed under a selector, in pages. Call after `fence`."""
        ...

    def relist(self, selector: str, image: str) -> None:
        """Apply a ``posting`` fact: list without looking at fences."""
        ...

    def labelled(self, label: str) -> Iterator[Sequence[str]]:
        """Keys of the visible images whose label that counts is `label`, in pages."""
        ...

    def open_request(self, request: str, time: int) -> tuple[int, bool]:
        """Remember when a request was first seen. Returns (earliest time seen, closed)."""
        ...

    def expansion(self, request: str, images: Iterable[str]) -> frozenset[str]:
        """Add to the images a request expands into; returns all of them so far."""
        ...

    def close_request(self, request: str, until: int) -> None:
        """A closed request never expands again. Drops its expansion."""
        ...

    def open_requests(self) -> int: ...

    def oldest_request(self) -> int | None:
        """When the open request that was seen first was, µs; None where none is open."""
        ...

    def search(
        self,
        vectors: Sequence[Vector],
        ks: Sequence[int],
        excluded: Sequence[str | None] | None = None,
    ) -> list[SearchResult]:
        """The ks[i] nearest items of vectors[i], sorted by (distance, image id).

        Returns exactly min(k, items) hits. `excluded[i]` is an image id left out. A search the
        store cut short is `Unavailable`, never a short answer.
        """
        ...

    def vectors_of(self, image_ids: Sequence[str]) -> list[Vector | None]:
        """The stored vectors of remembered images, None where there is no visible item."""
        ...

    def item(self, image: str) -> Item | None:
        """All that is held of one image key."""
        ...

    def digests(self) -> Digests: ...

    def stats(self) -> Stats: ...

    def label_counts(self, labels: Sequence[str] | None = None) -> Mapping[str, int]:
        """Visible items by label; of the given labels only, or of all."""
        ...
