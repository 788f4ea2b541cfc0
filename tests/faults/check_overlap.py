"""An ingest worker killed again and again while two of its batches are under way."""

from __future__ import annotations

import random

import pytest

from streams.contract.topics import Topic
from tests.faults.ground import Ground, Load

KILLS, SEED = 100, 1
EVENTS = 250
"""A burst between two kills: more batches than are under way together."""


@pytest.mark.timeout(1800)
def test_a_worker_that_is_killed_amid_overlapping_batches_loses_nothing(shared: Ground) -> None:
    rng = random.Random(SEED)
    for _ in range(KILLS):
        kill(shared, rng)
    last = Load(shared.memory, SEED, EVENTS, only=(Topic.IMAGE_INGEST,))
    shared.judge(f"ingest: {KILLS} kills amid overlapping batches", last, shared.recovery())


def kill(shared: Ground, rng: random.Random) -> None:
    before = shared.memory.restarts("ingest")
    armed = shared.arm("ingest", "overlap", rng.randint(1, 3))
    load = Load(shared.memory, rng.randrange(1 << 30), EVENTS, rate=5000)
    shared.wait_until(lambda: not armed.exists(), "two batches overlap")
    shared.wait_restarted("ingest", before)
    load.finish()
