"""A short fuzz (`make fuzz` is the long one): each record is told once, and nobody is ended."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.fuzz.checking import fuzz_memory, warm_up
from tests.integration.running import running


@pytest.mark.servers
def test_every_record_is_accepted_or_rejected_once_whatever_it_holds(
    kafka_bootstrap: str, redis_url: str, tmp_path: Path
) -> None:
    with running(
        tmp_path,
        kafka=kafka_bootstrap,
        redis_url=redis_url,
        name=f"fuzz-{time.time_ns()}-",
        workers=dict.fromkeys(("ingest", "correct", "forget", "query"), 1),
    ) as memory:
        warm_up(memory)
        found = fuzz_memory(memory, seed=7, count=2_000, images=150)
    assert sum(found.rejected.values()) > 500
    assert len(found.reasons) > 15
