"""The search as other machines compute it."""

from __future__ import annotations

from collections.abc import Iterator

from memory.model.vectors import kernels


def by_each_variant() -> Iterator[int]:
    """Let each code that this processor can run compute in turn, and after them the usual one."""
    usual = kernels.variant
    try:
        for number in range(kernels.VARIANTS):
            kernels.variant = number
            yield number
    finally:
        kernels.variant = usual
