"""Shares and differences with their 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np

Z = 1.959964
RESAMPLED = 2000


def share(right: Sequence[bool]) -> dict[str, float]:
    """A share in percent with Wilson's interval."""
    n, p = len(right), sum(right) / len(right)
    middle, half = p + Z * Z / (2 * n), Z * sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    low, high = ((middle + side * half) / (1 + Z * Z / n) for side in (-1, 1))
    return {"percent": _percent(p), "low": _percent(low), "high": _percent(high), "of": n}


def difference(before: Sequence[bool], after: Sequence[bool]) -> dict[str, float]:
    """Points gained from one to the other on the same questions, with a paired bootstrap's interval."""
    gained = np.array(after, float) - np.array(before, float)
    drawn = np.random.default_rng(0).integers(0, len(gained), (RESAMPLED, len(gained)))
    low, high = np.quantile(gained[drawn].mean(axis=1), [0.025, 0.975])
    return {"points": _percent(gained.mean()), "low": _percent(low), "high": _percent(high)}


def log_law(right: Sequence[float]) -> dict[str, float]:
    """Of the i-th neighbour's accuracy as a + b ln i: both, and the share of variance explained."""
    x, y = np.log(np.arange(1, len(right) + 1)), np.array(right)
    b, a = np.polyfit(x, y, 1)
    explained = 1 - ((y - a - b * x) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    return {"a": round(float(a), 4), "b": round(float(b), 4), "r2": round(float(explained), 3)}


def outside(results: Mapping[str, Any], kept: Mapping[str, Any]) -> list[str]:
    """Where the shares and the points of a run lie outside the intervals of the one that is kept."""
    found = []
    for name, one in results.items():
        held = kept.get(name)
        if isinstance(one, Mapping) and isinstance(held, Mapping):
            value = one.get("percent", one.get("points"))
            if value is None:
                found += [f"{name}: {place}" for place in outside(one, held)]
            elif not held["low"] <= value <= held["high"]:
                found.append(f"{name}: {value}, not from {held['low']} to {held['high']}")
    return found


def _percent(value: Any) -> float:
    return round(100 * float(value), 2)
