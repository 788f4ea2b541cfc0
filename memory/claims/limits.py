"""How much of a claim's target is read, and until when."""

from __future__ import annotations

import time
from dataclasses import dataclass

from memory.errors import Reason, Rejected

CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of `time.monotonic`, in seconds."""

    at: float

    def remaining(self) -> float:
        """Seconds left, more than 0. Raises TimeoutError when there are none."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was read; `encoded` when a server says that it is not the object as it is."""

    data: bytes
    encoded: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is read, and until when."""

    max_bytes: int
    deadline: Deadline

    def check(self, size: int) -> None:
        """Raises `Rejected` for a size in bytes that is too large."""
        if size > self.max_bytes:
            raise Rejected(
                Reason.IMAGE_TOO_LARGE,
                f"what the claim points to is larger than {self.max_bytes} bytes; scale it down",
            )
