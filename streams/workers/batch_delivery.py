"""Delivery in batches: a few unfinished at a time, told and noted in their order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from memory.errors import Moved, Unavailable
from memory.model.events import LogPartition
from streams.contract.records import OutgoingRecord, Record
from streams.workers.attempts import Suspects
from streams.workers.delivery import Delivery
from streams.workers.faust_app import Read

MAX_BATCH_BYTES = 32 << 20

HandleBatch = Callable[[Sequence[Record]], Sequence[OutgoingRecord]]
"""Carry out records; raises `Unavailable` to be called again with the same, else nothing.

It runs in a thread. What it returns is published and acknowledged before the position moves.
"""


def apart(reads: Sequence[Read], suspects: Suspects) -> tuple[list[Read], list[Read]]:
    """What is to be processed one by one, and then the others, together: a position passes all before it, so
    what is ahead of a suspect in its partition comes with it.
    """
    records = [read.record for read in reads]
    ends = {record.partition: record.offset for record in records if suspects.include(record)}
    first: list[Read] = []
    others: list[Read] = []
    for read in reads:
        is_first = read.record.offset <= ends.get(read.record.partition, -1)
        (first if is_first else others).append(read)
    return first, others


class BatchDelivery(Delivery):
    """Gives a handler batches, `at_once` of its source at a time, each in a thread of its own."""

    def start(self, handle: HandleBatch) -> None:
        """Let the app read the topic, and hand what it reads to `handle`."""
        self._run(lambda: self._pump(handle))

    async def _pump(self, handle: HandleBatch) -> None:
        room = asyncio.Semaphore(self._source.at_once)
        last: asyncio.Task[None] | None = None
        while True:
            await room.acquire()
            reads = await self._next_batch()
            first, others = apart(reads, self._suspects)
            if first and last is not None:
                await asyncio.wait([last])
            for read in first:
                await self._process_alone(handle, read)
            if others:
                process = partial(self._process, handle, others, last)
                last = asyncio.create_task(self._exit_on_error(process)())
                last.add_done_callback(lambda _: room.release())
            else:
                room.release()

    async def _next_batch(self) -> list[Read]:
        """What has come meanwhile, at least one."""
        reads = [await self._queue.get()]
        size = len(reads[0].record.value or b"")
        while (
            len(reads) < self._source.batch and size < MAX_BATCH_BYTES and not self._queue.empty()
        ):
            reads.append(self._queue.get_nowait())
            size += len(reads[-1].record.value or b"")
        return reads

    async def _process(
        self,
        handle: HandleBatch,
        reads: Sequence[Read],
        before: asyncio.Task[None] | None = None,
    ) -> None:
        """Carry out a batch; its position moves when that of the batch before has."""
        records = [read.record for read in reads]
        ends = self._ends_of(records)
        is_noted = False

        def carry_out() -> Sequence[OutgoingRecord]:
            nonlocal is_noted
            outgoing = handle(records)
            # Where nothing is to be told or waited for, another way to a thread and back is saved.
            if not outgoing and (before is None or before.done()):
                with suppress(Unavailable):
                    self._advance_now(ends)
                    is_noted = True
            return outgoing

        self._under_way += 1
        while True:
            try:
                outgoing = await self._retry(lambda: self.in_thread(carry_out))
                await self.publish(outgoing)
                if before is not None:
                    await asyncio.wait([before])
                if not is_noted:
                    await self._advance(ends)
            except Moved:
                # All of it again: a step that was done is in the memory that was left.
                await self._retry(lambda: self.in_thread(self._positions.follow))
            else:
                break
        self._under_way -= 1
        for read in reads:
            read.ack()

    def _ends_of(self, records: Sequence[Record]) -> dict[LogPartition, int]:
        ends: dict[LogPartition, int] = {}
        for record in records:
            partition = self._log_partition(record.partition)
            ends[partition] = max(ends.get(partition, 0), record.offset + 1)
        return ends

    async def _process_alone(self, handle: HandleBatch, read: Read) -> None:
        """Process a record at which, or next to which, workers have ended before."""
        if not self._suspects.include(read.record):
            await self._process(handle, [read])
            return
        if await self._has_ended_workers(read.record):
            await self._process(lambda records: self._reject(records[0]), [read])
        else:
            await self._process(handle, [read])
        await self._count(self._attempts.clear, read.record)
