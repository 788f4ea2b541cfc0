"""Workers that are killed, asked to end, joined by another, or thrown out of their group."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from memory.errors import Unavailable
from streams import bootstrap
from tests.faults import ground as faults
from tests.faults.conftest import Fresh, name_of
from tests.faults.ground import ALL, Ground, Load, Servers

EVENTS = 1200
STILL_SECONDS = 15.0
TWO_OF_EACH = {"ingest": 2, "correct": 2, "forget": 2}


@pytest.mark.parametrize("name", ["ingest", "correct", "forget"])
@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGKILL, marks=pytest.mark.quick), signal.SIGTERM]
)
def test_a_worker_that_ends_mid_batch_loses_nothing(
    shared: Ground, name: str, number: signal.Signals
) -> None:
    load = Load(shared.memory, 10 * ord(name[0]) + number, EVENTS, rate=600)
    load.wait_for(0.4)
    before = shared.memory.restarts(name)
    recovery = shared.recovery()
    if number == signal.SIGTERM:
        shared.stop(name)
    else:
        shared.signal(name, number)
    shared.judge(f"{name}: {number.name} mid-batch", load, recovery)
    shared.wait_restarted(name, before)


@pytest.mark.quick
def test_a_worker_whose_group_coordination_ends_is_started_again(shared: Ground) -> None:
    """Else it lives on without partitions for ever."""
    before = shared.memory.restarts("ingest")
    armed = shared.arm("ingest", "group")
    load = Load(shared.memory, 31, EVENTS)
    shared.wait_until(lambda: not armed.exists(), "the fault")
    recovery = shared.recovery()
    shared.wait_restarted("ingest", before)
    shared.judge("ingest: its group coordination ends", load, recovery)
    assert "unexpected GroupLost" in shared.text()


def test_a_third_worker_that_joins_amid_the_load_loses_nothing(
    fresh: Fresh, servers: Servers, tmp_path: Path
) -> None:
    # Of fewer partitions the first two would keep all: each its share of a group of three.
    memory = fresh(workers=TWO_OF_EACH, instances=False, partitions=6)
    load = Load(memory.memory, 41, 2 * EVENTS, rate=300)
    load.wait_for(0.2)
    recovery = memory.recovery()
    name, third = name_of(tmp_path), {"ingest": 1, "correct": 1, "forget": 1}
    alike: dict[str, Any] = {"instances": False, "partitions": 6}
    with faults.ground(servers, tmp_path / "third", name, third, **alike):
        load.finish()
        load = Load(memory.memory, 42, EVENTS // 2)
        load.finish()
    # And leaves again.
    memory.judge("a third worker of each role joins and leaves", load, recovery)


def test_no_partition_stands_still_for_long_when_one_worker_of_two_is_killed(fresh: Fresh) -> None:
    memory = fresh(workers=TWO_OF_EACH, instances=False)
    load = Load(memory.memory, 51, 2 * EVENTS, rate=100)
    load.wait_for(0.1)
    still = Still(memory)
    recovery = memory.recovery()
    for name in TWO_OF_EACH:
        memory.signal(name, signal.SIGKILL)
    row = memory.judge("one worker of two of each role: SIGKILL", load, recovery)
    longest = still.stop()
    assert longest < STILL_SECONDS, f"a partition stood still for {longest:.1f} s"
    row.case += f", still {longest:.0f} s"


class Still:
    """The longest time for which a partition with something to merge has not moved."""

    def __init__(self, ground: Ground) -> None:
        self._monitor = bootstrap.monitor(ground.memory.settings)
        self._longest = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="still", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        moved: dict[tuple[str, int], tuple[int, float]] = {}
        while not self._ended.wait(0.2):
            try:
                lags = self._monitor.lag()
            except Unavailable:
                continue
            now = time.monotonic()
            for lag in lags:
                place = (lag.topic, lag.partition)
                position, since = moved.get(place, (-1, now))
                if not lag.records or position != lag.position:
                    moved[place] = (lag.position, now)
                else:
                    self._longest = max(self._longest, now - since)

    def stop(self) -> float:
        self._ended.set()
        self._thread.join()
        self._monitor.close()
        return self._longest


def test_every_role_ends_within_twenty_seconds_when_asked_to(shared: Ground) -> None:
    for name in ALL:
        before = shared.memory.restarts(name)
        shared.stop(name)
        shared.wait_restarted(name, before)
