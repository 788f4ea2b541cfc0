"""How a worker reads, beside what Faust does."""

from __future__ import annotations

import asyncio
import threading
from typing import Any
from unittest.mock import AsyncMock, patch

from streams.workers import faust_app


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
