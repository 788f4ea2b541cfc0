"""An ingest worker killed again and again while two of its batches are under way."""

from __future__ import annotations

import random

import pytest

from streams.contract.topics import Topic
from tests.faults.conftest import Fresh
from tests.faults.ground import Ground, Load

KILLS, SEED = 100, 1
EVENTS = 250
"""A burst between two kills: more batches than are under way together."""


@pytest.mark.timeout(1800)
def test_a_worker_that_is_killed_amid_overlapping_batches_loses_nothing(fresh: Fresh) -> None:
    # One partition: what is behind a kill is read one by one first, of each partition.
    memory = fresh(partitions=1)
    rng = random.Random(SEED)
    for _ in range(KILLS):
        kill(memory, rng)
    last = Load(memory.memory, SEED, EVENTS, only=(Topic.IMAGE_INGEST,))
    memory.judge(f"ingest: {KILLS} kills amid overlapping batches", last, memory.recovery())


def kill(memory: Ground, rng: random.Random) -> None:
    before = memory.memory.restarts("ingest")
    armed = memory.arm("ingest", "overlap", rng.randint(1, 3))
    load = Load(memory.memory, rng.randrange(1 << 30), EVENTS, rate=5000)
    memory.wait_until(lambda: not armed.exists(), "two batches overlap")
    memory.wait_restarted("ingest", before)
    load.finish()
