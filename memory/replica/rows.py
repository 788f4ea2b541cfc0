"""Exact nearest neighbours among rows in this process's memory.

A scan in 8-bit integers finds all rows that can belong to an answer, by a bound that holds for
every row; of those the distances are computed in float64, as everywhere.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.model.answers import Hit, SearchResult
from memory.model.keys import ImageKey
from memory.model.questions import Exclusion, Probe
from memory.model.vectors import Vector, cosine_distances

LEVELS = 127
ROUNDING = 2e-6
"""What float32 adds to a score of at most 1 or so: a handful of roundings of 2**-24 each."""
SCORES_AT_ONCE = 1 << 22
"""Bounds what a scan takes beside the rows: 16 bytes a score."""
MANY_CANDIDATES = 1024
"""From here on it pays to look for equal rows, which come by the thousand or not at all."""
BLOCK = 4096
"""Rows that are scanned together, and the unit of room: torch compiles anew for each shape, 20 ms."""
MANY_QUERIES = 64
GROWTH = 1.5


class OverBudget(Exception):
    """The rows need more memory than they may have."""


class Rows:
    """Vectors of one dimension and element type, with image, id, label and selectors. Not for many
    threads.

    A row that goes is overwritten by the last one, and that by zeros. `max_bytes` is what the vectors
    may take; while they move to a larger room the former one comes on top of it.
    """

    def __init__(self, dim: int, element: np.dtype[np.floating[Any]], max_bytes: int) -> None:
        self._count = 0
        self._at: dict[ImageKey, int] = {}
        self._images: list[ImageKey] = []
        self._ids: list[str] = []
        self._labels: list[str] = []
        self._selectors: list[str] = []
        self._vectors = np.zeros((BLOCK, dim), element)
        # A row is nearly `levels * step`; `error` is at most what is missing. Both are of its length.
        self._levels = np.zeros((BLOCK, dim), np.int8)
        self._steps = np.zeros(BLOCK, np.float32)
        self._errors = np.zeros(BLOCK, np.float32)
        self._hashes = np.zeros(BLOCK, np.int64)
        self._most = max_bytes // self.nbytes * BLOCK

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes the vectors take, without ids and labels."""
        return sum(array.nbytes for array in self._arrays())

    def _arrays(self) -> tuple[npt.NDArray[Any], ...]:
        return self._vectors, self._levels, self._steps, self._errors, self._hashes

    def _lists(self) -> tuple[list[Any], ...]:
        return self._images, self._ids, self._labels, self._selectors

    def put(
        self,
        images: Sequence[ImageKey],
        ids: Sequence[str],
        labels: Sequence[str],
        selectors: Sequence[str],
        vectors: npt.NDArray[np.floating[Any]],
    ) -> None:
        """Add or replace rows; `vectors` has shape (len(images), dim). Each image once.

        `selectors` are those that each ever bore, separated by spaces. Raises `OverBudget`, and changes nothing then.
        """
        self._make_room(self._count + sum(image not in self._at for image in images))
        places = []
        told = zip(images, ids, labels, selectors, strict=True)
        for image, image_id, label, bears in told:
            place = self._at.setdefault(image, self._count)
            if place == self._count:
                self._count += 1
                self._images.append(image)
                self._ids.append(image_id)
                self._labels.append("")
                self._selectors.append("")
            self._ids[place] = image_id
            self._labels[place] = sys.intern(label)
            self._selectors[place] = sys.intern(bears)
            places.append(place)
        at = np.array(places, np.intp)
        self._vectors[at] = vectors
        self._levels[at], self._steps[at], self._errors[at] = _in_levels(vectors)
        # Python's hash of bytes has a secret key: equal rows can be told by it.
        self._hashes[at] = [hash(row.tobytes()) for row in self._vectors[at]]

    def _make_room(self, count: int) -> None:
        if count > self._most:
            raise OverBudget
        room = len(self._steps)
        if count <= room:
            return
        size = min(self._most, -(-max(count, int(GROWTH * room)) // BLOCK) * BLOCK)
        for name in ("_vectors", "_levels", "_steps", "_errors", "_hashes"):
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
        last = self._count = self._count - 1
        if place != last:
            moved = self._images[last]
            self._at[moved] = place
            self._images[place], self._ids[place] = moved, self._ids[last]
            self._labels[place] = self._labels[last]
            self._selectors[place] = self._selectors[last]
        for held in self._lists():
            held.pop()
        for array in self._arrays():
            array[place] = array[last]
            array[last] = 0

    def clear(self) -> None:
        """Overwrite all."""
        for array in self._arrays():
            array.fill(0)
        self._count = 0
        self._at.clear()
        for held in self._lists():
            held.clear()

    def nearest(self, probes: Sequence[Probe]) -> list[SearchResult]:
        """For each probe its nearest rows, by (distance, image id), without those it excludes."""
        results: list[SearchResult] = []
        if not self._count:
            return [SearchResult((), exact=True) for _ in probes]
        at_once = max(1, SCORES_AT_ONCE // self._count)
        for start in range(0, len(probes), at_once):
            some = probes[start : start + at_once]
            bounds = self._bounds([probe.vector for probe in some])
            for probe, (low, high) in zip(some, bounds, strict=True):
                results.append(SearchResult(self._found(probe, low, high), exact=True))
        return results

    def _bounds(
        self, queries: Sequence[Vector]
    ) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        """Of each query the least and the greatest that its cosine with each row can be.

        With row r = r' + e and query q = q' + f, both of length 1: r.q = r'.q' + r'.f + e.q, and the
        last two are at most |r'||f| + |e| (Cauchy and Schwarz). A query has two sums of levels, the
        second for what the first leaves, so that |f| is next to nothing.
        """
        count = self._count
        coarse, fine, steps, rest = _in_two_levels(np.stack(queries))
        sums = self._products(np.concatenate([coarse, fine]))
        errors = self._errors[:count]
        for i in range(len(queries)):
            score = sums[i] * np.float32(steps[i, 0])
            score += sums[len(queries) + i] * np.float32(steps[i, 1])
            score *= self._steps[:count]
            off = errors * np.float32(1 + rest[i]) + np.float32(rest[i] + ROUNDING)
            yield score - off, score + off

    def warm_up(self) -> None:
        """Let torch compile for every number of queries, so that no question waits for it."""
        count = 1
        while count < MANY_QUERIES:
            count *= 2
            _int_product(np.zeros((count, self._levels.shape[1]), np.int8), self._levels[:BLOCK])

    def _products(self, asked: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
        """Inner products of integers, shapes (m, dim) to (m, rows)."""
        found = np.empty((len(asked), self._count), np.float32)
        padded = np.zeros((1 << (len(asked) - 1).bit_length(), asked.shape[1]), np.int8)
        padded[: len(asked)] = asked
        for start in range(0, self._count, BLOCK):
            products = _int_product(padded, self._levels[start : start + BLOCK])
            found[:, start : start + BLOCK] = products[: len(asked), : self._count - start]
        return found

    def _found(
        self,
        probe: Probe,
        low: npt.NDArray[np.float32],
        high: npt.NDArray[np.float32],
    ) -> tuple[Hit, ...]:
        without = self._excluded(probe.without)
        low[without] = high[without] = -np.inf
        k = min(probe.k, self._count - len(without))
        if k <= 0:
            return ()
        # So many rows are at least as near as this: what is surely farther is none of them.
        least = np.partition(low, self._count - k)[self._count - k]
        rows = np.flatnonzero(high >= least)
        distances = self._distances(probe.vector, rows)
        if len(rows) > k:
            within = distances <= np.partition(distances, k - 1)[k - 1]
            rows, distances = rows[within], distances[within]
        places = rows.tolist()
        ids = [self._ids[row] for row in places]
        nearest = heapq.nsmallest(k, zip(distances.tolist(), ids, places, strict=True))
        return tuple(Hit(image_id, self._labels[row], d) for d, image_id, row in nearest)

    def _excluded(self, without: Exclusion) -> list[int]:
        """Places of the rows that an exclusion covers."""
        images, selectors, labels = without.images, without.selectors, without.labels
        places = {self._at[image] for image in images if image in self._at}
        if labels:
            places.update(i for i, label in enumerate(self._labels) if label in labels)
        if selectors:
            texts: frozenset[str] = selectors
            places.update(
                i for i, bears in enumerate(self._selectors) if not texts.isdisjoint(bears.split())
            )
        return sorted(places)

    def _distances(self, query: Vector, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        if len(rows) < MANY_CANDIDATES:
            return cosine_distances(query, self._vectors[rows])
        _, first, same = np.unique(self._hashes[rows], return_index=True, return_inverse=True)
        return cosine_distances(query, self._vectors[rows[first]])[same]


def _int_product(a: npt.NDArray[np.int8], b: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
    """Inner products of each row of (m, dim) with each of (n, dim); shape (m, n)."""
    import torch

    # The only one of integers that torch has for a CPU; a test holds it against numpy's.
    product = torch._int_mm(torch.from_numpy(a), torch.from_numpy(b).T)  # noqa: SLF001 - as above
    found: npt.NDArray[np.int32] = product.numpy()
    return found


def _in_levels(
    rows: npt.NDArray[np.floating[Any]],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Rows as integers, the step between two of them, and how far off they are; by its length.

    Shapes (n, dim), (n,) and (n,). The last is rounded up.
    """
    wide = rows.astype(np.float64)
    steps = np.abs(wide).max(axis=1) / LEVELS
    levels = np.rint(wide / steps[:, None])
    norms = np.linalg.norm(wide, axis=1)
    errors = np.linalg.norm(wide - levels * steps[:, None], axis=1) / norms
    up = np.float32(1 + 1e-6)
    return (
        levels.astype(np.int8),
        (steps / norms).astype(np.float32),
        errors.astype(np.float32) * up,
    )


def _in_two_levels(
    queries: npt.NDArray[np.floating[Any]],
) -> tuple[
    npt.NDArray[np.int8], npt.NDArray[np.int8], npt.NDArray[np.float64], npt.NDArray[np.float64]
]:
    """Queries at length 1 as two sums of integers, their steps (n, 2), and what is missing (n,)."""
    wide = queries.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    found, steps = [], []
    for _ in range(2):
        step = np.maximum(np.abs(wide).max(axis=1, keepdims=True) / LEVELS, np.finfo(float).tiny)
        levels = np.rint(wide / step)
        wide = wide - levels * step
        found.append(levels.astype(np.int8))
        steps.append(step)
    return found[0], found[1], np.hstack(steps), np.linalg.norm(wide, axis=1)
