"""Wait for a condition in place of sleeping for as long as it might take."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(
    done: Callable[[], object],
    seconds: float = 120.0,
    *,
    what: Callable[[], object] = lambda: "it did not come to pass",
) -> None:
    """Return when `done()` is true. Fails with what `what()` says after `seconds`.

    By default as long as a busy machine may take to start Kafka anew.
    """
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what()}"
        time.sleep(0.05)
