"""A scan of all rows in 8-bit integers, and what it finds to be nearest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from memory.model.vectors import Vector, kernels
from memory.model.vectors.kernels import QueryLevels, RowLevels
from memory.replica.levels import in_levels

if TYPE_CHECKING:
    from memory.replica.rows import Rows

ROOM_FOR_TIES = 32
"""So many rows more than asked for may be as far as the last before a query is searched once more, alone."""


class RowScan:
    """Scores of all rows for queries; rows that are written later cost no other scan."""

    def __init__(self, rows: Rows, queries: Sequence[Vector]) -> None:
        self._rows = rows
        wide = np.stack(queries).astype(np.float64)
        self._asked = QueryLevels(wide, *in_levels(wide))
        self._scores, self._writes = self._of_all(), rows.writes

    def __len__(self) -> int:
        """How many queries."""
        return len(self._scores)

    def nearest(
        self, ks: Sequence[int], without: Sequence[Sequence[int]]
    ) -> Iterator[tuple[list[int], list[float]]]:
        """Of each query the places and distances of its k nearest rows, as they are now, by distance.

        With all that are as far as the last. Those at the places of `without` are left out; there must be k others.
        To be asked once.
        """
        yield from self._nearest(ks, without, max(ks) + ROOM_FOR_TIES)

    def _nearest(
        self, ks: Sequence[int], without: Sequence[Sequence[int]], room: int
    ) -> Iterator[tuple[list[int], list[float]]]:
        self._renew()
        found = kernels.nearest(self._rows.stored, self._asked, self._scores, ks, without, room)
        for i, count in enumerate(found.counts.tolist()):
            if count <= room:
                yield found.places[i, :count].tolist(), found.distances[i, :count].tolist()
            else:
                again = RowScan(self._rows, [self._asked.vectors[i]])
                yield from again._nearest(ks[i : i + 1], without[i : i + 1], count)

    def greatest(self) -> Iterator[npt.NDArray[np.float32]]:
        """Of each query the greatest that its cosine with each row can be."""
        self._renew()
        errors = self._rows.stored.errors
        for scores, missing in zip(self._scores, self._asked.errors, strict=True):
            yield scores[: len(errors)] + (errors * (1 + missing) + missing + kernels.ROUNDING)

    def _renew(self) -> None:
        rows, written = self._rows, self._rows.writes - self._writes
        if written > len(rows.written) or self._scores.shape[1] < len(rows):
            self._scores = self._of_all()
        elif written:
            places = np.unique(list(rows.written)[-written:])
            places = places[places < len(rows)]
            some = RowLevels._make(array[places] for array in rows.stored)
            self._scores[:, places] = self._scored(some, len(places))

    def _of_all(self) -> npt.NDArray[np.float32]:
        return self._scored(self._rows.stored, self._rows.room)

    def _scored(self, stored: RowLevels, room: int) -> npt.NDArray[np.float32]:
        scores = np.empty((len(self._asked.vectors), room), np.float32)
        kernels.write_scores(stored, self._asked, scores)
        return scores
