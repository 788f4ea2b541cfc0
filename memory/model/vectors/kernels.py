"""The functions of ``nearest.c``, which the installation compiles: scores, distances, nearest rows.

Arrays must be in one piece and of the types that are named here; anything else is a `TypeError`. No function
holds Python's lock while it computes, and none keeps anything between two calls; what one reads and writes
must be nobody else's meanwhile.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_library = ctypes.CDLL(str(Path(__file__).parent / "nearest.so"))
_library.best_variant.restype = ctypes.c_int64
_library.nearest.restype = ctypes.c_int64

ROUNDING = np.float32(ctypes.c_float.in_dll(_library, "ROUNDING").value)
"""What float32 adds to a score at most, and to what it is off."""

_NO_MEMORY, _TOO_FEW = -1, -2

VARIANTS: int = _library.best_variant() + 1
"""For so many sets of instructions of this processor there is code; the last is the quickest."""

variant = VARIANTS - 1
"""The one in use. All find the same, to the last bit."""


class RowLevels(NamedTuple):
    """Rows that are searched. A row is nearly `levels * step`, both of its length and at length 1."""

    vectors: Array
    """(n, dim), half or single precision."""
    levels: Array
    """(n, dim), int8."""
    steps: Array
    """(n,), float32."""
    errors: Array
    """How far levels are off at most: (n,), float32."""
    hashes: Array
    """Equal where rows are: (n,), int64."""


class QueryLevels(NamedTuple):
    """Queries, as `RowLevels`."""

    vectors: Array
    """(m, dim), float64."""
    levels: Array
    steps: Array
    errors: Array


class Searched(NamedTuple):
    """The nearest rows of each query: how many, (m,), their places and distances, (m, room).

    Only so many of these were written; none where they are more than `room`.
    """

    counts: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    distances: npt.NDArray[np.float64]


class _Rows(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in RowLevels._fields),
        *((name, ctypes.c_int64) for name in ("half", "count", "dim")),
    )


class _Queries(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in QueryLevels._fields),
        ("count", ctypes.c_int64),
    )


def write_scores(stored: RowLevels, asked: QueryLevels, scores: Array) -> None:
    """Write nearly the cosine of each query with each row: the inner product of their levels, times both steps.

    `scores` is float32, (m, room), with room for n or more.
    """
    rows = _rows(stored)
    queries = _queries(asked, rows.dim)
    into, room = _scores(scores, rows, queries)
    _library.write_scores(_whole(variant), ctypes.byref(rows), ctypes.byref(queries), into, room)


def nearest(
    stored: RowLevels,
    asked: QueryLevels,
    scores: Array,
    ks: Sequence[int],
    without: Sequence[Sequence[int]],
    room: int,
) -> Searched:
    """The `k` nearest rows of each query, and all that are as far as the last of them, by their distance.

    `scores` are those of `write_scores`, and are used up. `without` are places of rows to leave out; there must
    be k others. The answer is exact: with row r = r' + e and query q = q' + f, both of length 1, of which r' and q'
    are the levels, r.q = r'.q' + r'.f + e.q, and the last two are at most |r'||f| + |e| (Cauchy and Schwarz). So a
    row's cosine is at most so far from its score, and each that can be among the nearest is looked at.
    """
    rows = _rows(stored)
    queries = _queries(asked, rows.dim)
    count = queries.count
    places, measured = np.empty((count, room), np.int64), np.empty((count, room))
    found = Searched(np.empty(count, np.int64), places, measured)
    left_out = np.array([place for out in without for place in out], np.int64)
    ends = np.cumsum([len(out) for out in without], dtype=np.int64)
    wanted = np.array(ks, np.int64)
    if ((wanted < 0) | (wanted > rows.count)).any():
        raise ValueError(f"{ks} of {rows.count} rows are wanted")
    if ((left_out < 0) | (left_out >= rows.count)).any():
        raise ValueError(f"of {rows.count} rows others are to be left out")
    done = _library.nearest(
        *(_whole(variant), ctypes.byref(rows), ctypes.byref(queries)),
        *_scores(scores, rows, queries),
        *(_at(wanted, np.int64, count), _at(left_out, np.int64), _at(ends, np.int64, count)),
        *(_at(found.counts, np.int64), _at(places, np.int64), _at(measured, np.float64)),
        _whole(room),
    )
    if done == _NO_MEMORY:
        raise MemoryError
    if done == _TOO_FEW:
        raise ValueError("fewer rows are left than are wanted")
    return found


def distances(query: Array, vectors: Array) -> npt.NDArray[np.float64]:
    """1 - cosine of a query, float64 (dim,), and each of the rows, half or single precision (n, dim).

    Shape (n,), from 0 to 2. The sums are of float64 and in an order of their own, so that a distance has the
    same bits on every processor.
    """
    count, dim = vectors.shape
    found = np.empty(count)
    half = vectors.dtype == np.float16
    rows = _Rows(vectors=_vectors(vectors), half=half, count=count, dim=dim)
    _library.distances(
        *(_whole(variant), ctypes.byref(rows), _at(query, np.float64, dim)), _at(found, np.float64)
    )
    return found


def _rows(stored: RowLevels) -> _Rows:
    count, dim = stored.vectors.shape
    return _Rows(
        vectors=_vectors(stored.vectors),
        levels=_at(stored.levels, np.int8, count, dim),
        steps=_at(stored.steps, np.float32, count),
        errors=_at(stored.errors, np.float32, count),
        hashes=_at(stored.hashes, np.int64, count),
        half=stored.vectors.dtype == np.float16,
        count=count,
        dim=dim,
    )


def _queries(asked: QueryLevels, dim: int) -> _Queries:
    count = len(asked.vectors)
    return _Queries(
        vectors=_at(asked.vectors, np.float64, count, dim),
        levels=_at(asked.levels, np.int8, count, dim),
        steps=_at(asked.steps, np.float32, count),
        errors=_at(asked.errors, np.float32, count),
        count=count,
    )


def _scores(
    scores: Array, rows: _Rows, queries: _Queries
) -> tuple[ctypes.c_void_p, ctypes.c_int64]:
    room = scores.shape[-1]
    if room < rows.count:
        raise TypeError(f"no room for {rows.count} scores in {scores.shape}")
    return _at(scores, np.float32, queries.count, room), _whole(room)


def _vectors(vectors: Array) -> ctypes.c_void_p:
    return _at(vectors, np.float16 if vectors.dtype == np.float16 else np.float32, *vectors.shape)


def _at(array: Array, dtype: npt.DTypeLike, *shape: int) -> ctypes.c_void_p:
    if array.dtype != dtype or (shape and array.shape != shape) or not array.flags.c_contiguous:
        raise TypeError(
            f"{np.dtype(dtype)} of shape {shape} in one piece is wanted, not {array.dtype} of {array.shape}"
        )
    # Unlike its address this keeps the array.
    return array.ctypes.data_as(ctypes.c_void_p)


def _whole(number: int) -> ctypes.c_int64:
    return ctypes.c_int64(number)
