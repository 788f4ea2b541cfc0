"""How a worker runs beside what Faust does."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import AsyncMock, patch

import pytest

from streams.workers import faust_app, worker_process


@pytest.fixture
def _as_before() -> Iterator[None]:
    callbacks = list(gc.callbacks)
    yield
    gc.callbacks[:] = callbacks
    gc.unfreeze()


@pytest.mark.usefixtures("_as_before")
def test_what_survives_a_long_full_collection_of_a_worker_is_not_looked_through_again() -> None:
    run_app: Callable[..., object] = worker_process.run_app
    with patch.object(worker_process, "BoundedWorker"):
        run_app(None, "INFO")
    many = [[n] for n in range(300_000)]
    gc.collect()
    assert gc.get_freeze_count() > len(many)


@pytest.mark.usefixtures("_as_before")
def test_what_is_soon_looked_through_stays_with_the_collector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_process, "LONG_COLLECTION_SECONDS", 60)
    gc.callbacks.append(worker_process.SparingCollections())
    gc.collect()
    assert not gc.get_freeze_count()


def test_a_worker_reads_its_topic_on_the_loop_that_handles_it() -> None:
    """Handed from thread to thread and back, each fetch costs more than it takes to read it."""
    where: list[int] = []
    kafka = AsyncMock(start=AsyncMock(side_effect=lambda: where.append(threading.get_ident())))

    async def run() -> None:
        app = faust_app.make_app("group", "localhost:1", instance=None, max_record_bytes=1, batch=1)
        transport = faust_app.Transport(app, AsyncMock())
        told = AsyncMock()
        consumer: Any = transport.create_consumer(
            told, on_partitions_revoked=told, on_partitions_assigned=told
        )
        reader = consumer._thread
        with patch.object(reader, "_create_consumer", return_value=kafka):
            await reader.start()
        where.append(await reader.call_thread(threading.get_ident))
        await reader.stop()
        await reader.stop()

    asyncio.run(run())
    assert where == [threading.get_ident()] * 2
    kafka.stop.assert_awaited_once()
