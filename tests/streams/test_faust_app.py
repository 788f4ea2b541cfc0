"""How a worker reads, beside what Faust does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock, patch

import pytest

from streams.contract.records import OutgoingRecord
from streams.contract.topics import Topic
from streams.workers import faust_app
from streams.workers.batch_delivery import BatchDelivery
from streams.workers.delivery import Source


def new_consumer(gather_seconds: float = 0.0) -> Any:
    app = faust_app.make_app("group", "localhost:1", instance=None, max_record_bytes=1, batch=1)
    told = AsyncMock()
    return faust_app.Transport(app, AsyncMock(), gather_seconds).create_consumer(
        told, on_partitions_revoked=told, on_partitions_assigned=told
    )


def test_a_worker_reads_its_topic_on_the_loop_that_handles_it() -> None:
    """Handed from thread to thread and back, each fetch costs more than it takes to read it."""
    where: list[int] = []
    kafka = AsyncMock(start=AsyncMock(side_effect=lambda: where.append(threading.get_ident())))

    async def run() -> None:
        reader = new_consumer()._thread
        with patch.object(reader, "_create_consumer", return_value=kafka):
            await reader.start()
        where.append(await reader.call_thread(threading.get_ident))
        await reader.stop()
        await reader.stop()

    asyncio.run(run())
    assert where == [threading.get_ident()] * 2
    kafka.stop.assert_awaited_once()


def test_what_is_done_at_once_is_waited_for_without_tasks_for_what_could_end_it() -> None:
    async def run() -> None:
        consumer, held_up, loop = new_consumer(), asyncio.Event(), asyncio.get_running_loop()
        tasks: list[asyncio.Task[Any]] = []

        def note(loop: asyncio.AbstractEventLoop, coroutine: Any, **named: Any) -> Any:
            tasks.append(asyncio.Task(coroutine, loop=loop, **named))
            return tasks[-1]

        async def at_once() -> str:
            return "done"

        async def broken() -> None:
            raise LookupError

        loop.set_task_factory(note)
        found = await consumer.wait_first(at_once(), held_up.wait())
        assert (found.results, found.stopped) == (["done"], False)
        assert len(tasks) == 1
        with pytest.raises(LookupError):
            await consumer.wait_first(broken(), held_up.wait())
        consumer._stopped.set()
        assert (await consumer.wait_first(at_once(), held_up.wait())).stopped

    asyncio.run(run())


def test_what_has_to_wait_ends_with_what_ends_it() -> None:
    """A rebalance, the end of the worker, or whoever waits."""

    async def run() -> None:
        consumer, suspended, ended = new_consumer(), asyncio.Event(), asyncio.Event()

        async def waits() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async def has_ended() -> None:
            await asyncio.wait_for(ended.wait(), 10)
            ended.clear()

        asyncio.get_running_loop().call_later(0.01, suspended.set)
        found = await consumer.wait_first(waits(), suspended.wait())
        assert (found.results, found.stopped) == ([True], False)
        await has_ended()
        for turns in (1, 4):  # within the moment that it is given, and behind it
            waiting = asyncio.create_task(consumer.wait_first(waits(), asyncio.Event().wait()))
            for _ in range(turns):
                await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            for _ in range(4):
                await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}
        ended.clear()
        consumer._stopped.set()
        assert (await consumer.wait_first(waits(), asyncio.Event().wait())).stopped
        await has_ended()

    asyncio.run(run())


def test_others_run_while_nothing_is_waited_for_and_a_sleep_ends_with_the_worker() -> None:
    async def run() -> None:
        consumer, ran = new_consumer(), asyncio.Event()
        asyncio.get_running_loop().call_soon(ran.set)
        await consumer.sleep(0)
        assert ran.is_set()
        asyncio.get_running_loop().call_later(0.01, consumer._stopped.set)
        await asyncio.wait_for(consumer.sleep(3600), 10)
        assert consumer.should_stop

    asyncio.run(run())


def test_a_producer_that_runs_is_not_asked_whether_it_does() -> None:
    async def run() -> None:
        record = OutgoingRecord(Topic.REJECTED, b"k", b"v", (("a", b"b"),))
        app: Any = SimpleNamespace(
            producer=AsyncMock(started=False),
            maybe_start_producer=AsyncMock(return_value=AsyncMock()),
        )
        await faust_app.produce(app, "topic", record)
        app.producer.send.assert_not_awaited()
        app.maybe_start_producer.return_value.send.assert_awaited_once()
        app.producer.started = True
        await faust_app.produce(app, "topic", record)
        app.maybe_start_producer.assert_awaited_once()
        app.producer.send.assert_awaited_once_with(
            "topic", key=b"k", value=b"v", partition=None, timestamp=None, headers=[("a", b"b")]
        )

    asyncio.run(run())


async def moments_of_fetches(gather_seconds: float, counts: Sequence[int]) -> list[float]:
    """When each fetch of so many records is looked for, on a clock that only waiting moves."""
    consumer, moments, now = new_consumer(gather_seconds), list[float](), 100.0

    async def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    async def fetched(_: float) -> tuple[Any, Any]:
        moments.append(round(now - 100.0, 6))
        return {("t", 0): [object()] * counts[len(moments) - 1]}, set()

    with (
        patch("streams.workers.faust_app.time.monotonic", side_effect=lambda: now),
        patch("streams.workers.faust_app.asyncio.sleep", side_effect=wait),
        patch.object(consumer, "_wait_next_records", side_effect=fetched),
    ):
        for _ in counts:
            async for _message in consumer.getmany(1.0):
                pytest.fail("of a partition that is not read any more")
    return moments


def test_what_comes_right_after_a_few_records_waits_for_more() -> None:
    """Not after many, or none: a backlog is not held up, nor is who was quiet."""
    few, many = faust_app.FEW - 1, faust_app.FEW
    found = asyncio.run(moments_of_fetches(0.01, [1, few, many, many, 0, 1, 1]))
    assert found == [0.0, 0.01, 0.02, 0.02, 0.02, 0.02, 0.03]


def test_a_role_that_gathers_nothing_never_waits() -> None:
    assert asyncio.run(moments_of_fetches(0.0, [1, 1, 1])) == [0.0, 0.0, 0.0]


def test_a_source_says_how_long_what_is_read_of_it_waits() -> None:
    app = faust_app.make_app("group", "localhost:1", instance=None, max_record_bytes=1, batch=1)
    source = Source("ingest", "topic", "id", 1, gather_seconds=0.5)
    told: dict[str, Any] = dict.fromkeys(
        ("positions", "known_log", "attempts", "full_name", "reject"), Mock()
    )
    BatchDelivery(app, source, **told).start(lambda _: [])
    transport: Any = app.transport
    assert transport.Consumer.gather_seconds == 0.5
