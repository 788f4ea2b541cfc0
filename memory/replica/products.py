"""Inner products of 8-bit integers, as quick as the processor at hand has instructions for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.replica.levels import LEVELS

MANY_ROWS = 64
EXACT_DIM = (1 << 24) // LEVELS**2
"""Sums of so many products of two levels are whole numbers in float32, in whatever order they are added."""

IN_CACHE = 512
"""Rows that are multiplied while they are in the processor's cache as floats."""

HOPELESS = 4
"""What takes so many times as long as another for few rows is not tried for more, which would take seconds."""

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
    return _int_mm(_to_power_of_two(a), b)[: len(a)]


def turned_int_product(a: npt.NDArray[np.int8], b: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
    """As `int_product`, of the second with the first: on some processors that is quicker for few rows, since
    torch copies the second into another order first.
    """
    return _int_mm(b, _to_power_of_two(a)).T[: len(a)]


def _int_mm(a: npt.NDArray[np.int8], b: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
    import torch

    # The only one of integers that torch has for a CPU; a test holds it against numpy's.
    product = torch._int_mm(torch.from_numpy(a), torch.from_numpy(b).T)  # noqa: SLF001 - as above
    found: npt.NDArray[np.int32] = product.numpy()
    return found


def _to_power_of_two(rows: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """With rows of zeros: torch compiles anew for each number of them."""
    count, dim = rows.shape
    return np.concatenate([rows, np.zeros((_power_of_two(count) - count, dim), np.int8)])


PRODUCTS: Sequence[Product] = (int_product, turned_int_product, float_product)


class QuickestProduct:
    """Multiplies as this machine does with the least CPU, which it finds out as it is made.

    That loads torch, and lets it compile, which takes seconds.
    """

    def __init__(self, dim: int, sizes: Sequence[int]) -> None:
        """`sizes` are how many rows the second of two has as a rule; the greatest decides."""
        self._of: dict[int, Product] = {}
        *others, rows = (np.zeros((size, dim), np.int8) for size in sorted(sizes))
        left: Sequence[Product] = PRODUCTS
        count = 1
        while count < MANY_ROWS:
            count *= 2
            seconds = {product: _cpu_seconds(product, rows[:count], rows) for product in left}
            least = min(seconds.values())
            left = [product for product in left if seconds[product] <= HOPELESS * least]
            quickest = self._of[count] = min(left, key=seconds.__getitem__)
            for other in others:
                quickest(other[:count], other)

    def __call__(self, a: npt.NDArray[np.int8], b: npt.NDArray[np.int8]) -> npt.NDArray[Any]:
        count = max(2, min(MANY_ROWS, _power_of_two(len(a))))
        return self._of[count](a, b)


def _cpu_seconds(product: Product, a: npt.NDArray[np.int8], b: npt.NDArray[np.int8]) -> float:
    # What is found is copied: in another order that takes as long as half of the product.
    into = np.empty((len(a), len(b)), np.float32)
    product(a, b)  # what it does once
    found = []
    for _ in range(3):
        started = time.process_time()
        into[:] = product(a, b)
        found.append(time.process_time() - started)
    return min(found)


def _power_of_two(count: int) -> int:
    """The least that is as great."""
    return 1 << (count - 1).bit_length()
