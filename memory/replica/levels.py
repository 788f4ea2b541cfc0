"""Vectors as 8-bit integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

LEVELS = 127


def in_levels(
    rows: npt.NDArray[np.floating[Any]],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Rows as integers, the step between two of them, and how far off they are; by its length.

    Shapes (n, dim), (n,) and (n,). The last is rounded up.
    """
    wide = rows.astype(np.float64, copy=False)
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
