"""A scan of all rows in 8-bit integers: bounds of each row's cosine with each query."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from memory.model.vectors import Vector
from memory.replica import levels
from memory.replica.products import float_product

if TYPE_CHECKING:
    from memory.replica.rows import Rows

ROUNDING = 2e-6
"""What float32 adds to a score of at most 1 or so: a handful of roundings of 2**-24 each."""
BLOCK = 4096
"""The unit of room, and the fewest rows that are scanned together: torch compiles anew for each shape, 20 ms."""
SIZES = (BLOCK, 4 * BLOCK)
"""So many rows are scanned together, the more the better."""
FEW = BLOCK // 2
"""So many need no torch."""


class RowScan:
    """Inner products of queries with all rows; rows that are written later cost no other scan."""

    def __init__(self, rows: Rows, queries: Sequence[Vector]) -> None:
        self._rows = rows
        self._count = len(queries)
        coarse, fine, self._steps, rest = levels.in_two_levels(np.stack(queries))
        self._asked = np.concatenate([coarse, fine])
        self._missing = rest.max()
        self._sums, self._writes = self._products(), rows.writes

    def __len__(self) -> int:
        """How many queries."""
        return self._count

    def bounds(self) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        """Of each query the least and the greatest that its cosine with each row, as it is now, can be.

        With row r = r' + e and query q = q' + f, both of length 1: r.q = r'.q' + r'.f + e.q, and the
        last two are at most |r'||f| + |e| (Cauchy and Schwarz). A query has two sums of levels, the
        second for what the first leaves, so that |f| is next to nothing. To be gone through once.
        """
        self._renew()
        rows, count, missing = self._rows, len(self._rows), self._missing
        off = rows.errors[:count] * np.float32(1 + missing) + np.float32(missing + ROUNDING)
        for i in range(len(self)):
            score = self._sums[i, :count]
            score *= np.float32(self._steps[i, 0])
            score += self._sums[len(self) + i, :count] * np.float32(self._steps[i, 1])
            score *= rows.steps[:count]
            yield score - off, score + off

    def _renew(self) -> None:
        rows, written = self._rows, self._rows.writes - self._writes
        if written > len(rows.written) or self._sums.shape[1] < len(rows):
            self._sums = self._products()
        elif written:
            places = np.unique(list(rows.written)[-written:])
            places = places[places < len(rows)]
            self._sums[:, places] = float_product(self._asked, rows.levels[places])

    def _products(self) -> npt.NDArray[np.float32]:
        """Inner products of integers, shape (queries, room of the rows)."""
        rows, asked = self._rows, self._asked
        found = np.empty((len(asked), len(rows.levels)), np.float32)
        for some in _parts(-(-len(rows) // BLOCK) * BLOCK):
            found[:, some] = rows.product(asked, rows.levels[some])
        return found


def _parts(count: int) -> Iterator[slice]:
    """So many rows, of whole blocks, in as few parts as those of `SIZES` make."""
    start, (least, most) = 0, SIZES
    while start < count:
        end = start + (most if start + most <= count else least)
        yield slice(start, end)
        start = end
