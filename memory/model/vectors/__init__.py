"""Embeddings as arrays: what one must be, unit length, the stored form, distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.errors import Reason, Rejected
from memory.model.vectors.kernels import distances

Vector = npt.NDArray[np.float32]
"""An embedding: float32, shape (dim,)."""


def check_direction(rows: npt.NDArray[np.floating[Any]], what: str = "the vector") -> None:
    """Raise `Rejected` (NOT_FINITE, ZERO_VECTOR) where a vector, the last axis, points nowhere."""
    if rows.ndim == 1:
        with np.errstate(over="ignore"):
            square = rows.dot(rows)
        # Nearly always it tells at once; large or tiny elements over- or underflow in it.
        if 0 < square < np.inf:
            return
    if not np.isfinite(rows).all():
        raise Rejected(Reason.NOT_FINITE, f"{what} has NaN or infinite elements")
    if not rows.any(axis=-1).all():
        raise Rejected(Reason.ZERO_VECTOR, f"{what} is zero; it has no direction")


def check_made_by(vector: Vector, made_by: str, *, embedder: str, dim: int) -> None:
    """Raise `Rejected` unless a vector is this embedder's: its digest, shape (dim,)."""
    if made_by != embedder:
        raise Rejected(
            Reason.OTHER_EMBEDDER,
            f"the vector names another embedder; this memory's is {embedder}",
        )
    if vector.shape != (dim,):
        raise Rejected(
            Reason.WRONG_DIMENSION,
            f"the vector has {vector.size} dimensions, this memory's {dim}",
        )


def unit_rows(
    rows: npt.NDArray[np.floating[Any]], what: str = "the vector"
) -> npt.NDArray[np.float32]:
    """Rows (n, dim) at length 1, float32. Raises `Rejected` as `check_direction`."""
    # The squares of large or tiny float32 elements over- or underflow in float32.
    wide = rows.astype(np.float64)
    check_direction(wide, what)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = (wide / norms).astype(np.float32)
    return unit


def stored_vector(
    vector: Vector, made_by: str, *, embedder: str, dim: int, dtype: npt.DTypeLike
) -> npt.NDArray[np.floating[Any]]:
    """A vector in the element type that a memory of this embedder stores, shape (dim,).

    Raises `Rejected` for what it must not hold: its distances would mean nothing.
    """
    check_made_by(vector, made_by, embedder=embedder, dim=dim)
    return stored_rows(vector, dtype)


def stored_rows(
    rows: npt.NDArray[np.floating[Any]], dtype: npt.DTypeLike
) -> npt.NDArray[np.floating[Any]]:
    """Vectors, the last axis, in the element type that a memory stores. Raises `Rejected`."""
    with np.errstate(over="ignore"):  # refused by the next line, if a vector is not of length 1
        stored: npt.NDArray[np.floating[Any]] = rows.astype(dtype)
    check_direction(stored)
    return stored


def distances_to_nearest(
    given: Sequence[Vector], stored: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.float64]:
    """Of each row of (n, dim) the cosine distance to the nearest of some vectors, (dim,); shape (n,)."""
    nearest: npt.NDArray[np.float64] = np.min(
        [cosine_distances(one, stored) for one in given], axis=0
    )
    return nearest


def cosine_distances(
    query: npt.NDArray[np.floating[Any]], stored: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.float64]:
    """1 - cosine of (dim,) and each row of (n, dim), computed in float64; shape (n,).

    Rows are of half or single precision. On every processor the same bits.
    """
    return distances(query.astype(np.float64), np.ascontiguousarray(stored))
