"""Delivery one by one: many unfinished at a time, finished in any order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from streams.contract.records import OutgoingRecord, Record
from streams.workers.delivery import Delivery
from streams.workers.faust_app import Read
from streams.workers.worker_process import exit_now

NOTE_SECONDS = 1.0

AnswerRecord = Callable[[Record], Awaitable[Sequence[OutgoingRecord]]]
"""Answer one question on the event loop; raises nothing but `Unavailable`."""


_alone: ContextVar[Record | None] = ContextVar("_alone", default=None)
"""The record that the running task answers with all places to itself."""


@dataclass(slots=True)
class Offsets:
    """Which offsets of each partition are finished when they finish in any order."""

    _open: dict[int, set[int]] = field(default_factory=dict)
    _next: dict[int, int] = field(default_factory=dict)
    _noted: dict[int, int] = field(default_factory=dict)

    def start(self, partition: int, offset: int) -> None:
        self._open.setdefault(partition, set()).add(offset)
        self._next[partition] = max(self._next.get(partition, 0), offset + 1)

    def finish(self, partition: int, offset: int) -> None:
        self._open[partition].discard(offset)

    def take_advances(self) -> dict[int, int]:
        """By partition, the offset below which all is finished, where it grew since last asked."""
        moved = {}
        for partition, following in self._next.items():
            below = min(self._open[partition], default=following)
            if below > self._noted.get(partition, 0):
                moved[partition] = self._noted[partition] = below
        return moved


class Places:
    """Room for some records at a time, or for one alone."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = asyncio.Semaphore(count)
        # Two that each had some of all places would wait for each other.
        self._taking_all = asyncio.Lock()

    async def take(self, *, alone: bool) -> None:
        if not alone:
            await self._free.acquire()
            return
        async with self._taking_all:
            for _ in range(self._count):
                await self._free.acquire()

    def give(self, *, alone: bool) -> None:
        for _ in range(self._count if alone else 1):
            self._free.release()


class TaskDelivery(Delivery):
    """Gives a handler records as they come, some unfinished at a time."""

    repeats_steps = True
    _places: Places

    def start(self, answer: AnswerRecord, at_most: int) -> None:
        """Let the app read the topic, and `answer` what it reads, `at_most` at a time."""
        self._places = Places(at_most)
        self._offsets = Offsets()
        self._run(lambda: self._pump(answer))

    @asynccontextmanager
    async def place_free(self) -> AsyncIterator[None]:
        """Let others have this record's place as long as it only waits.

        What ends the worker meanwhile is not this one.
        """
        suspect = _alone.get()
        if suspect is not None:
            await self._count(self._attempts.withdraw, suspect)
        self._places.give(alone=suspect is not None)
        try:
            yield
        finally:
            await self._places.take(alone=suspect is not None)
        if suspect is not None:
            await self._count(self._attempts.count_attempt, suspect)

    async def _pump(self, answer: AnswerRecord) -> None:
        running: set[asyncio.Task[None]] = set()

        async def note_positions() -> None:
            while True:
                await asyncio.sleep(NOTE_SECONDS)
                await self._note()

        notes = asyncio.create_task(self._exit_on_error(note_positions)())
        try:
            while True:
                read = await self._queue.get()
                alone = self._suspects.include(read.record)
                await self._places.take(alone=alone)
                self._offsets.start(read.record.partition, read.record.offset)
                task = asyncio.create_task(self._one(answer, read, alone=alone))
                running.add(task)
                task.add_done_callback(running.discard)
        finally:
            notes.cancel()

    async def _one(self, answer: AnswerRecord, read: Read, *, alone: bool) -> None:
        record = read.record
        self._under_way += 1
        try:
            if alone:
                _alone.set(record)
                await self._answer_alone(answer, record)
            else:
                await self._answer(answer, record)
            self._offsets.finish(record.partition, record.offset)
            read.ack()
            if alone:
                # At once: else one that ends a worker brings back all before it.
                await self._note()
        except Exception as error:  # noqa: BLE001 - as in `_exit_on_error`
            exit_now(self._source.role, error)
        finally:
            self._under_way -= 1
            self._places.give(alone=alone)

    async def _note(self) -> None:
        if moved := self._offsets.take_advances():
            await self._advance({self._log_partition(p): o for p, o in moved.items()})

    async def _answer(self, answer: AnswerRecord, record: Record) -> None:
        await self.publish(await self._retry(lambda: answer(record)))

    async def _answer_alone(self, answer: AnswerRecord, record: Record) -> None:
        if await self._has_ended_workers(record):
            await self.publish(self._reject(record))
        else:
            await self._answer(answer, record)
            await self._count(self._attempts.clear, record)
