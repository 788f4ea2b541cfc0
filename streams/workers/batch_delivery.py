"""Delivery in batches: one unfinished at a time, told and noted before it counts as done."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memory.errors import Moved
from memory.model.events import LogPartition
from streams.contract.records import OutgoingRecord, Record
from streams.workers.delivery import Delivery
from streams.workers.faust_app import Read

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
            reads = [await self._queue.get()]
            size = len(reads[0].record.value or b"")
            while (
                len(reads) < self._source.batch
                and size < MAX_BATCH_BYTES
                and not self._queue.empty()
            ):
                reads.append(self._queue.get_nowait())
                size += len(reads[-1].record.value or b"")
            if self._is_suspect(read.record for read in reads):
                for read in reads:
                    await self._process_alone(handle, read)
            else:
                await self._process(handle, reads)

    async def _process(self, handle: HandleBatch, reads: Sequence[Read]) -> None:
        records = [read.record for read in reads]
        while True:
            try:
                outgoing = await self._retry(lambda: self.in_thread(handle, records))
                await self._finish(reads, outgoing)
            except Moved:
                # All of it again: a step that was done is in the memory that was left.
                await self._retry(lambda: self.in_thread(self._positions.follow))
            else:
                return

    async def _process_alone(self, handle: HandleBatch, read: Read) -> None:
        """Process a record at which, or next to which, workers have ended before."""
        if not self._is_suspect([read.record]):
            await self._process(handle, [read])
            return
        if await self._has_ended_workers(read.record):
            await self._process(lambda records: self._reject(records[0]), [read])
        else:
            await self._process(handle, [read])
        await self._count(self._attempts.clear, read.record)

    async def _finish(self, reads: Sequence[Read], outgoing: Sequence[OutgoingRecord]) -> None:
        await self.publish(outgoing)
        ends: dict[LogPartition, int] = {}
        for record, _ in reads:
            partition = self._log_partition(record.partition)
            ends[partition] = max(ends.get(partition, 0), record.offset + 1)
        await self._advance(ends)
        for read in reads:
            read.ack()
