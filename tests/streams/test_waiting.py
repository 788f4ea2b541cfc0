"""Questions that wait: for each other, and for what they must have seen."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.errors import Unavailable
from memory.model.answers import Position
from memory.model.events import LogPartition
from streams.workers.task_delivery import Offsets
from streams.workers.waiting import Batcher, WaitingRoom, Watch

AT = Position("image-ingest", "t", 0, 7)


def test_what_waits_while_a_batch_runs_is_run_together_next() -> None:
    batches: list[list[int]] = []

    async def run(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        await asyncio.sleep(0)
        return [10 * item for item in items]

    async def ask() -> list[int]:
        batcher = Batcher(run, at_most=4)
        return await asyncio.gather(*(batcher.submit(n) for n in range(9)))

    assert asyncio.run(ask()) == [10 * n for n in range(9)]
    assert [len(batch) for batch in batches] == [4, 4, 1]


def test_an_exception_reaches_those_of_its_batch_and_nobody_else() -> None:
    async def run(items: Sequence[int]) -> list[int]:
        if 1 in items:
            raise Unavailable("away")
        return list(items)

    async def ask() -> list[int | BaseException]:
        batcher = Batcher(run, at_most=2)
        return await asyncio.gather(*(batcher.submit(n) for n in range(4)), return_exceptions=True)

    first, second, third, fourth = asyncio.run(ask())
    assert isinstance(first, Unavailable)
    assert isinstance(second, Unavailable)
    assert (third, fourth) == (2, 3)


def test_one_who_gives_up_waiting_harms_nobody() -> None:
    async def run(items: Sequence[int]) -> list[int]:
        await asyncio.sleep(0.01)
        return list(items)

    async def ask() -> int:
        batcher = Batcher(run, at_most=8)
        leaving = asyncio.create_task(batcher.submit(1))
        staying = asyncio.create_task(batcher.submit(2))
        await asyncio.sleep(0)
        leaving.cancel()
        found: int = await staying
        return found

    assert asyncio.run(ask()) == 2


def test_a_wait_ends_when_the_position_has_passed_the_offset() -> None:
    seen = iter([{}, {LogPartition("t", 0): 7}, {LogPartition("t", 0): 8}])
    asked = 0

    async def positions() -> Mapping[LogPartition, int]:
        nonlocal asked
        asked += 1
        return next(seen)

    async def wait() -> list[bool]:
        watch = Watch(positions)
        return await asyncio.gather(*(watch.wait_for((AT,), 5) for _ in range(20)))

    assert asyncio.run(wait()) == [True] * 20
    assert asked == 3, "one poll serves all who wait"


def test_a_wait_survives_a_store_that_is_away_and_ends_in_time() -> None:
    async def positions() -> Mapping[LogPartition, int]:
        raise Unavailable("away")

    async def wait() -> bool:
        return await Watch(positions).wait_for((AT,), 0.05)

    assert asyncio.run(wait()) is False


def test_nothing_to_wait_for_needs_no_look() -> None:
    async def positions() -> Mapping[LogPartition, int]:
        pytest.fail("looked")

    async def wait() -> bool:
        return await Watch(positions).wait_for((), 5)

    assert asyncio.run(wait()) is True


@given(st.lists(st.integers(0, 30), unique=True, min_size=1), st.randoms(use_true_random=False))
def test_a_position_never_passes_an_offset_that_is_not_finished(
    finishing: list[int], random: object
) -> None:
    """In whatever order questions end, and with gaps where compaction removed records."""
    offsets = Offsets()
    for offset in sorted(finishing):
        offsets.start(0, offset)
    unfinished = set(finishing)
    noted = 0
    for offset in finishing:
        offsets.finish(0, offset)
        unfinished.discard(offset)
        noted = offsets.take_advances().get(0, noted)
        assert all(noted <= other for other in unfinished)
    assert noted == max(finishing) + 1
    assert offsets.take_advances() == {}


def test_nobody_waits_beyond_the_room_and_an_asker_has_a_quarter_of_it() -> None:
    room = WaitingRoom(seats=8, size=100)
    with ExitStack() as waiting:

        def enters(asker: str, size: int = 0) -> bool:
            return waiting.enter_context(room.seat(asker, size))

        assert [enters("one") for _ in range(3)] == [True, True, False]
        assert [enters("two", 20), enters("two", 10), enters("two", 5)] == [True, False, True]
        assert [enters(name) for name in "abcdef"] == [True] * 4 + [False] * 2
    with room.seat("one", 25) as has_room:
        assert has_room
    assert (room._seats, room._bytes, room._all_seats, room._all_bytes) == ({}, {}, 0, 0)
