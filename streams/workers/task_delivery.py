"""Delivery one by one: many unfinished at a time, finished in any order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from faust.types import EventT

from streams.contract.records import OutgoingRecord, Record
from streams.workers.delivery import Delivery
from streams.workers.faust_app import exit_now, to_record
from streams.workers.offsets import Offsets

NOTE_SECONDS = 1.0

AnswerRecord = Callable[[Record], Awaitable[Sequence[OutgoingRecord]]]
"""Answer one question on the event loop; raises nothing but `Unavailable`."""


class TaskDelivery(Delivery):
    """Gives a handler records as they come, some unfinished at a time."""

    repeats_steps = True
    _places: asyncio.Semaphore

    def start(self, answer: AnswerRecord, at_most: int) -> None:
        """Let the app read the topic, and `answer` what it reads, `at_most` at a time."""
        self._places = asyncio.Semaphore(at_most)
        self._run(lambda: self._pump(answer))

    @asynccontextmanager
    async def place_free(self) -> AsyncIterator[None]:
        """Let another record have this one's place as long as this one only waits."""
        self._places.release()
        try:
            yield
        finally:
            await self._places.acquire()

    async def _pump(self, answer: AnswerRecord) -> None:
        places = self._places
        offsets = Offsets()
        running: set[asyncio.Task[None]] = set()

        async def one(event: EventT[Any], *, alone: bool = False) -> None:
            try:
                await (self._answer_alone if alone else self._answer)(answer, event)
                offsets.finish(event.message.partition, event.message.offset)
                event.ack()
            except Exception as error:  # noqa: BLE001 - as in `_exit_on_error`
                exit_now(self._source.role, error)
            finally:
                places.release()

        async def note() -> None:
            if moved := offsets.take_advances():
                await self._advance({self._log_partition(p): o for p, o in moved.items()})

        async def note_positions() -> None:
            while True:
                await asyncio.sleep(NOTE_SECONDS)
                await note()

        notes = asyncio.create_task(self._exit_on_error(note_positions)())
        try:
            while True:
                event = await self._queue.get()
                await places.acquire()
                offsets.start(event.message.partition, event.message.offset)
                if self._is_suspect([event]):
                    if running:
                        await asyncio.wait(running)
                    await one(event, alone=True)
                    # At once: else one that ends a worker brings back all before it.
                    await note()
                    continue
                task = asyncio.create_task(one(event))
                running.add(task)
                task.add_done_callback(running.discard)
        finally:
            notes.cancel()

    async def _answer(self, answer: AnswerRecord, event: EventT[Any]) -> None:
        await self.publish(await self._retry(lambda: answer(to_record(event))))

    async def _answer_alone(self, answer: AnswerRecord, event: EventT[Any]) -> None:
        if await self._has_ended_workers(event):
            await self.publish(self._reject(to_record(event)))
        else:
            await self._answer(answer, event)
            await self._clear_attempts(event)
