"""Exact nearest neighbours among rows in this process's memory.

A scan in 8-bit integers tells which rows can belong to an answer, by a bound that holds for
every row; of those the distances are computed in float64, as everywhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from memory.model.answers import Hit, SearchResult
from memory.model.keys import ImageKey
from memory.model.questions import Exclusion, Probe
from memory.model.vectors.kernels import RowLevels
from memory.replica.levels import in_levels
from memory.replica.scan import RowScan

SCORES_AT_ONCE = 1 << 22
"""Bounds what a scan takes beside the rows: 4 bytes a score."""
BLOCK = 4096
"""The unit of room."""
FEW_WRITES = 512
"""As many are worth looking at one by one; after more all rows are scanned again."""
GROWTH = 1.5

ARRAYS = ("vectors", "levels", "steps", "errors", "hashes", "numbers")
NOWHERE = -1


class OverBudget(Exception):
    """The rows need more memory than they may have."""


class Shown(NamedTuple):
    """What is told of a row: the selectors that it ever bore, separated by spaces, and whether a person
    gave it its label.
    """

    image: ImageKey
    image_id: str
    label: str
    selectors: str = ""
    corrected: bool = False


_IMAGE_ID, _LABEL = attrgetter("image_id"), attrgetter("label")


class Found(NamedTuple):
    """What is nearest, by (distance, image id), and where it stands; lists of one length."""

    distances: Sequence[float] = ()
    told: Sequence[Shown] = ()
    places: Sequence[int] = ()

    def first(self, k: int) -> Found:
        """The first `k` in their order, which the ids of those that are as far decide."""
        distances, told, places = self
        order = sorted(range(len(places)), key=lambda i: (distances[i], told[i].image_id))[:k]
        return Found(
            [distances[i] for i in order], [told[i] for i in order], [places[i] for i in order]
        )


class Rows:
    """Vectors of one dimension and element type, and what is told of them. Not for many threads.

    `shown`, `vectors` and `levels` (room, dim), `steps`, `errors`, `hashes` and `numbers` are by place, and are
    read only. `written` holds the last places that were written, `writes` is how many ever were. A row's number
    stays with it wherever it moves to; `changed` holds those of rows that came, changed or went, until who keeps
    something about rows takes them out. A row that goes is overwritten by the last one, and that by zeros.
    `max_bytes` is what the vectors may take; while they move to a larger room the former comes on top of it.
    """

    def __init__(self, dim: int, element: np.dtype[np.floating[Any]], max_bytes: int) -> None:
        self._count = 0
        self._at: dict[ImageKey, int] = {}
        self.shown: list[Shown] = []
        self.vectors = np.zeros((BLOCK, dim), element)
        # A row is nearly `levels * step`; `error` is at most what is missing. Both are of its length.
        self.levels = np.zeros((BLOCK, dim), np.int8)
        self.steps = np.zeros(BLOCK, np.float32)
        self.errors = np.zeros(BLOCK, np.float32)
        self.hashes = np.zeros(BLOCK, np.int64)
        self.numbers = np.zeros(BLOCK, np.int32)
        self.written: deque[int] = deque(maxlen=FEW_WRITES)
        self.writes = 0
        self._place_of: list[int] = []
        self._free: list[int] = []
        self.changed: set[int] = set()
        self._most = max_bytes // self.nbytes * BLOCK

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes the vectors take, without ids and labels."""
        return sum(array.nbytes for array in self._arrays())

    @property
    def stored(self) -> RowLevels:
        """The rows as arrays, by place."""
        count = self._count
        return RowLevels._make(getattr(self, name)[:count] for name in RowLevels._fields)

    @property
    def room(self) -> int:
        """For so many rows there is room before all move to a larger one."""
        return len(self.steps)

    def _arrays(self) -> tuple[npt.NDArray[Any], ...]:
        return tuple(getattr(self, name) for name in ARRAYS)

    def put(self, shown: Sequence[Shown], vectors: npt.NDArray[np.floating[Any]]) -> None:
        """Add or replace rows; `vectors` has shape (len(shown), dim). Each image once.

        Raises `OverBudget`, and changes nothing then.
        """
        self._make_room(self._count + sum(one.image not in self._at for one in shown))
        places = []
        for one in shown:
            place = self._at.setdefault(one.image, self._count)
            if place == self._count:
                self._count += 1
                self.shown.append(one)
                self._number(place)
            self.shown[place] = one
            places.append(place)
            self.changed.add(int(self.numbers[place]))
        at = np.array(places, np.intp)
        self._note_written(places)
        self.vectors[at] = vectors
        self.levels[at], self.steps[at], self.errors[at] = in_levels(vectors)
        # Python's hash of bytes has a secret key: equal rows can be told by it.
        self.hashes[at] = [hash(row.tobytes()) for row in self.vectors[at]]

    def _number(self, place: int) -> None:
        if self._free:
            number = self._free.pop()
            self._place_of[number] = place
        else:
            number = len(self._place_of)
            self._place_of.append(place)
        self.numbers[place] = number

    def _note_written(self, places: Sequence[int]) -> None:
        self.written.extend(places)
        self.writes += len(places)

    def _make_room(self, count: int) -> None:
        if count > self._most:
            raise OverBudget
        room = len(self.steps)
        if count <= room:
            return
        size = min(self._most, -(-max(count, int(GROWTH * room)) // BLOCK) * BLOCK)
        for name in ARRAYS:
            old = getattr(self, name)
            new = np.zeros((size, *old.shape[1:]), old.dtype)
            new[:room] = old
            old.fill(0)
            setattr(self, name, new)

    def remove(self, image: ImageKey) -> None:
        """Take a row out, if it is there."""
        place = self._at.pop(image, None)
        if place is None:
            return
        number = int(self.numbers[place])
        self._place_of[number] = NOWHERE
        self._free.append(number)
        self.changed.add(number)
        last = self._count = self._count - 1
        if place != last:
            moved = self.shown[last]
            self._place_of[self.numbers[last]] = place
            self._at[moved.image] = place
            self.shown[place] = moved
        self.shown.pop()
        for array in self._arrays():
            array[place] = array[last]
            array[last] = 0
        self._note_written([place])

    def clear(self) -> None:
        """Overwrite all."""
        for array in self._arrays():
            array.fill(0)
        self._count = 0
        self._at.clear()
        for held in (self.shown, self._place_of, self._free):
            held.clear()
        self.changed.clear()

    def scan(self, probes: Sequence[Probe]) -> RowScan | None:
        """The first part of `nearest`, and the longest, for as many of the probes as it takes at once."""
        if not self._count or not probes:
            return None
        at_once = max(1, SCORES_AT_ONCE // self._count)
        return RowScan(self, [probe.vector for probe in probes[:at_once]])

    def nearest(self, probes: Sequence[Probe], begun: RowScan | None = None) -> list[SearchResult]:
        """For each probe its nearest rows, by (distance, image id), without those it excludes.

        `begun` is a scan for these probes; rows may have changed since.
        """
        return [
            SearchResult(
                tuple(map(Hit, map(_IMAGE_ID, told), map(_LABEL, told), distances)), exact=True
            )
            for distances, told, _ in self.found(probes, begun)
        ]

    def found(self, probes: Sequence[Probe], begun: RowScan | None = None) -> Iterator[Found]:
        """As `nearest`."""
        while probes:
            scan = begun or self.scan(probes)
            if scan is None:
                yield from (Found() for _ in probes)
                return
            some, probes, begun = probes[: len(scan)], probes[len(scan) :], None
            without = [self._excluded(probe.without) for probe in some]
            ks = [
                min(probe.k, self._count - len(out))
                for probe, out in zip(some, without, strict=True)
            ]
            for k, (places, distances) in zip(ks, scan.nearest(ks, without), strict=True):
                found = Found(distances, list(map(self.shown.__getitem__, places)), places)
                tied = len(places) > k or len(set(distances)) < len(distances)
                yield found.first(k) if tied else found

    @property
    def highest_number(self) -> int:
        """That was ever given to a row."""
        return len(self._place_of) - 1

    def places_of(self, numbers: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Where rows of these numbers are; `NOWHERE` for one that is not."""
        known = len(self._place_of)
        return np.array(
            [self._place_of[n] if n < known else NOWHERE for n in numbers.tolist()], np.intp
        )

    def may_be_nearer(
        self, places: npt.NDArray[np.intp], cosines: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.bool_]:
        """Of each row whether its cosine with one at `places` may be as high as its own of `cosines`.

        Shape (rows,); a bound, so True for some whose is not.
        """
        near = np.zeros(self._count, np.bool_)
        for greatest in RowScan(self, list(self.vectors[places])).greatest():
            near |= greatest >= cosines
        return near

    def _excluded(self, without: Exclusion) -> list[int]:
        """Places of the rows that an exclusion covers."""
        images, selectors, labels = without.images, without.selectors, without.labels
        places = {self._at[image] for image in images if image in self._at}
        if labels:
            places.update(i for i, one in enumerate(self.shown) if one.label in labels)
        if selectors:
            texts: frozenset[str] = selectors
            places.update(
                i for i, one in enumerate(self.shown) if not texts.isdisjoint(one.selectors.split())
            )
        return sorted(places)
