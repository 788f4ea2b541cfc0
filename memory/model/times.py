"""Times, integers of µs since the Unix epoch (UTC), and stamps, which order events."""

from __future__ import annotations

import hashlib
import time
from typing import NewType

from memory.model.text import canonical_json

Stamp = NewType("Stamp", str)
"""``<16 digits of µs>.<64 hex>``: totally ordered as plain strings."""
SECOND = 1_000_000
NEVER = -1
"""The barrier of what was never forgotten."""
FOREVER = 9_999_999_999_999_999
"""The barrier of a permanent forget: the greatest 16-digit time."""


def now_us() -> int:
    """The time, µs."""
    return time.time_ns() // 1000


def microseconds(seconds: float) -> int:
    return round(seconds * SECOND)


def make_stamp(at: int, *parts: str | None) -> Stamp:
    """Order an event: its time (µs) first, then a digest of what it says.

    `parts` are source, id, type, image, label, subjects, payload digest, in that order
    (design, "The law"); None and "" differ. Tracing headers never take part.
    """
    return Stamp(f"{at:016d}.{hashlib.sha256(canonical_json(parts)).hexdigest()}")


def stamp_time(stamp: Stamp) -> int:
    """The time of a stamp, µs."""
    return int(stamp[:16])
