"""Vectors as 8-bit integers, and back in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

LEVELS = 127
GROUPS_A_K = 2
UNSHARED = 1 << 15
"""So many values torch converts in the thread that asks; more it shares out, which takes twice the CPU and longer."""


def widen(rows: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """Half precision in float32, as exact: numpy takes several times as long as torch."""
    import torch

    found, half = torch.empty(rows.shape, dtype=torch.float32), torch.from_numpy(rows)
    at_once = max(1, UNSHARED // rows.shape[1])
    for start in range(0, len(rows), at_once):
        found[start : start + at_once].copy_(half[start : start + at_once])
    widened: npt.NDArray[np.float32] = found.numpy()
    return widened


def in_levels(
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


def in_two_levels(
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


def kth_greatest(scores: npt.NDArray[np.float32], k: int) -> np.float32:
    """Of (n,) scores, n at least k; as by `np.partition`, which looks at each several times."""
    blocks = GROUPS_A_K * k
    if len(scores) < 8 * blocks:
        return np.float32(np.partition(scores, len(scores) - k)[len(scores) - k])
    size = len(scores) // blocks
    # The greatest of k of the groups are as great as this at least, so the k-th of all is too.
    greatest = scores[: blocks * size].reshape(blocks, size).max(axis=1)
    some = scores[scores >= np.partition(greatest, blocks - k)[blocks - k]]
    return np.float32(np.partition(some, len(some) - k)[len(some) - k])
