"""What keeps a worker from serving; one whose lag only grows is told from one that gets on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from memory.errors import Unavailable
from memory.exact.index import ExactIndex
from streams.workers import readiness
from streams.workers.readiness import Headway, Readiness

Look = tuple[float, Mapping[int, tuple[int, int]]]

LOOKS: Mapping[str, tuple[Sequence[Look], bool]] = {
    "nothing has come": ([(0, {0: (0, 0)}), (99, {0: (0, 0)})], False),
    "all is merged": ([(0, {0: (0, 5)}), (99, {0: (5, 5)})], False),
    "it only grows": ([(0, {0: (3, 3)}), (5, {0: (3, 4)}), (15, {0: (3, 9)})], True),
    "it came at once and stands": ([(0, {0: (3, 3)}), (10, {0: (3, 9)})], True),
    "it grows, but not for long": ([(0, {0: (3, 3)}), (9, {0: (3, 9)})], False),
    "it grows, and one partition moves": (
        [
            (0, {0: (3, 9), 1: (0, 9)}),
            (9, {0: (3, 99), 1: (1, 99)}),
            (15, {0: (3, 999), 1: (1, 99)}),
        ],
        False,
    ),
    "a long batch, and nothing new comes": ([(0, {0: (3, 9)}), (99, {0: (3, 9)})], False),
    "catching up with what grows faster": (
        [(0, {0: (0, 100)}), (9, {0: (1, 200)}), (18, {0: (2, 300)})],
        False,
    ),
    "it moved again after it had stalled": (
        [(0, {0: (3, 3)}), (15, {0: (3, 9)}), (16, {0: (4, 9)})],
        False,
    ),
    "other partitions since": ([(0, {0: (3, 3)}), (9, {0: (3, 9)}), (15, {1: (3, 9)})], False),
    "it has none": ([(0, {0: (3, 9)}), (99, {})], False),
}


@pytest.mark.parametrize(("looks", "stalled"), LOOKS.values(), ids=LOOKS)
def test_a_worker_has_stalled_when_no_position_moves_though_records_come(
    looks: Sequence[Look], *, stalled: bool
) -> None:
    headway = Headway(patience=10)
    for now, lags in looks:
        headway.look(now, lags)
    assert headway.stalled is stalled


class Carrier:
    """Delivery as the probes ask it."""

    waiting_for = ""

    def assignment_size(self) -> int:
        return 1


class Away(ExactIndex):
    def ping(self) -> None:
        raise Unavailable("away")


def ready(
    *, carrier: Carrier | None = None, index: ExactIndex | None = None, ends: Any = None
) -> Readiness:
    async def none() -> Mapping[int, int]:
        return {}

    found = index or ExactIndex(embedder="test", dim=2)
    return Readiness(ends or none, "topic-id", carrier or Carrier(), found)


def reasons(probe: Readiness) -> list[str]:
    return asyncio.run(probe())


def test_nothing_keeps_a_worker_that_has_all_it_needs() -> None:
    assert reasons(ready()) == []


def test_a_worker_without_a_partition_says_so() -> None:
    spare = Carrier()
    spare.assignment_size = lambda: 0  # type: ignore[method-assign]  # of this one
    (reason,) = reasons(ready(carrier=spare))
    assert "no partition" in reason


def test_a_worker_that_repeats_a_step_says_what_it_waits_for() -> None:
    waiting = Carrier()
    waiting.waiting_for = "Kafka: NotEnoughReplicasError"
    assert reasons(ready(carrier=waiting)) == ["waiting for Kafka: NotEnoughReplicasError"]


def test_a_redis_that_is_away_is_named() -> None:
    assert reasons(ready(index=Away(embedder="test", dim=2))) == ["Redis is away"]


@pytest.mark.parametrize("how", ["hangs", "refuses"])
def test_a_kafka_that_does_not_answer_is_named_until_it_does(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "LAG_SECONDS", 0.01)
    monkeypatch.setattr(readiness, "KAFKA_SECONDS", 0.1)

    async def watched() -> None:
        back = asyncio.Event()

        async def ends() -> Mapping[int, int]:
            if how == "hangs":
                await back.wait()
            if not back.is_set():
                raise Unavailable("away")
            return {0: 0}

        probe = ready(ends=ends)
        assert await probe() == []
        watching = asyncio.create_task(probe.watch())
        await asyncio.sleep(0.2)
        assert await probe() == ["Kafka is away"]
        back.set()
        while await probe():  # noqa: ASYNC110 - the probe tells no event
            await asyncio.sleep(0.01)
        watching.cancel()

    asyncio.run(asyncio.wait_for(watched(), 20))
