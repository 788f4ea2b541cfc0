"""Delivery in batches: one unfinished at a time, told and noted before it counts as done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from faust.types import EventT

from memory.errors import Moved
from memory.model.events import LogPartition
from streams.contract.records import OutgoingRecord, Record
from streams.workers.delivery import Delivery
from streams.workers.faust_app import to_record

MAX_BATCH_BYTES = 32 << 20

HandleBatch = Callable[[Sequence[Record]], Sequence[OutgoingRecord]]
"""Carry out records; raises `Unavailable` to be called again with the same, else nothing.

It runs in a thread. What it returns is published and acknowledged before the position moves.
"""


class BatchDelivery(Delivery):
    """Gives a handler batches, one unfinished at a time."""

    def start(self, handle: HandleBatch) -> None:
        """Let the app read the topic, and hand what it reads to `handle`."""
        self._run(lambda: self._pump(handle))

    async def _pump(self, handle: HandleBatch) -> None:
        while True:
            events = [await self._queue.get()]
            size = len(events[0].message.value or b"")
            while (
                len(events) < self._source.batch
                and size < MAX_BATCH_BYTES
                and not self._queue.empty()
            ):
                events.append(self._queue.get_nowait())
                size += len(events[-1].message.value or b"")
            if self._is_suspect(events):
                for event in events:
                    await self._process_alone(handle, event)
            else:
                await self._process(handle, events)

    async def _process(self, handle: HandleBatch, events: Sequence[EventT[Any]]) -> None:
        records = [to_record(event) for event in events]
        while True:
            try:
                outgoing = await self._retry(lambda: self.in_thread(handle, records))
                await self._finish(events, outgoing)
            except Moved:
                # All of it again: a step that was done is in the memory that was left.
                await self._retry(lambda: self.in_thread(self._positions.follow))
            else:
                return

    async def _process_alone(self, handle: HandleBatch, event: EventT[Any]) -> None:
        """Process a record at which, or next to which, workers have ended before."""
        if not self._is_suspect([event]):
            await self._process(handle, [event])
            return
        if await self._has_ended_workers(event):
            await self._process(lambda records: self._reject(records[0]), [event])
        else:
            await self._process(handle, [event])
        await self._count(self._attempts.clear, event)

    async def _finish(
        self, events: Sequence[EventT[Any]], outgoing: Sequence[OutgoingRecord]
    ) -> None:
        await self.publish(outgoing)
        ends: dict[LogPartition, int] = {}
        for event in events:
            partition = self._log_partition(event.message.partition)
            ends[partition] = max(ends.get(partition, 0), event.message.offset + 1)
        await self._advance(ends)
        for event in events:
            event.ack()
