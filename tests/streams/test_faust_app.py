"""How a worker reads, beside what Faust does."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, patch

import pytest

from streams.contract.records import OutgoingRecord
from streams.contract.topics import Topic
from streams.workers import faust_app


def new_consumer() -> Any:
    app = faust_app.make_app("group", "localhost:1", instance=None, max_record_bytes=1, batch=1)
    told = AsyncMock()
    return faust_app.Transport(app, AsyncMock()).create_consumer(
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
