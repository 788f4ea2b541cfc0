"""Inner products of 8-bit integers, as quick as the processor at hand has instructions for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.replica.levels import LEVELS

BETTER_COPIED = 8
"""So many rows are better copied than the many they are multiplied with; of more the result is, which costs more."""
MANY_ROWS = 64
EXACT_DIM = (1 << 24) // LEVELS**2
"""Sums of so many products of two levels are whole numbers in float32, in whatever order they are added."""

IN_CACHE = 512
"""Rows that are multiplied while they are in the processor's cache as floats."""

Product = Callable[[npt.NDArray[np.int8], npt.NDArray[np.int8]], npt.NDArray[Any]]
"""Inner products of each row of (m, dim) with each of (n, dim), whole numbers of shape (m, n)."""


def float_product(
    a: npt.NDArray[np.int8], b: npt.NDArray[np.int8]
) -> npt.NDArray[np.floating[Any]]:
    """By numpy in floats, without torch, which takes seconds and 200 MB to load."""
    dim = a.shape[1]
    found = np.zeros((len(b), len(a)), np.float32 if dim <= EXACT_DIM else np.float64)
    for at in range(0, dim, EXACT_DIM):
        some = a[:, at : at + EXACT_DIM].astype(np.float32).T
        for start in range(0, len(b), IN_CACHE):
            rows = b[start : start + IN_CACHE, at : at + EXACT_DIM]
            found[start : start + IN_CACHE] += rows.astype(np.float32) @ some
    return found.T


def int_product(a: npt.NDArray[np.int8], b: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
    """By torch in integers: several times as quick as by floats where the processor has instructions for
    it (VNNI, AMX), and twenty times as slow where it has none.
    """
    import torch

    count = len(a)
    # torch compiles anew for each number of rows.
    a = np.concatenate([a, np.zeros((_power_of_two(count) - count, a.shape[1]), np.int8)])
    # At each call torch copies the second of two into another order first.
    is_second = len(a) <= BETTER_COPIED
    first, second = (b, a) if is_second else (a, b)
    # The only one of integers that torch has for a CPU; a test holds it against numpy's.
    product = torch._int_mm(torch.from_numpy(first), torch.from_numpy(second).T)  # noqa: SLF001 - as above
    found: npt.NDArray[np.int32] = product.numpy()
    return (found.T if is_second else found)[:count]


PRODUCTS: Sequence[Product] = (int_product, float_product)


class QuickestProduct:
    """Multiplies as this machine does with the least CPU, which it finds out as it is made.

    That loads torch, and lets it compile, which takes seconds.
    """

    def __init__(self, dim: int, n: int) -> None:
        """`n` is how many rows the second of two has as a rule."""
        self._of: dict[int, Product] = {}
        rows = np.zeros((n, dim), np.int8)
        count = 1
        while count < MANY_ROWS:
            count *= 2
            seconds = {product: _cpu_seconds(product, rows[:count], rows) for product in PRODUCTS}
            self._of[count] = min(PRODUCTS, key=seconds.__getitem__)

    def __call__(self, a: npt.NDArray[np.int8], b: npt.NDArray[np.int8]) -> npt.NDArray[Any]:
        count = max(2, min(MANY_ROWS, _power_of_two(len(a))))
        return self._of[count](a, b)


def _cpu_seconds(product: Product, a: npt.NDArray[np.int8], b: npt.NDArray[np.int8]) -> float:
    product(a, b)  # what it does once
    found = []
    for _ in range(2):
        started = time.process_time()
        product(a, b)
        found.append(time.process_time() - started)
    return min(found)


def _power_of_two(count: int) -> int:
    """The least that is as great."""
    return 1 << (count - 1).bit_length()
