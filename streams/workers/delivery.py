"""Delivery: the one module that knows Faust's rules for acks, offsets and rebalances.

(faust_app.py, its other half, has the app's settings, first offsets and bounded end.)

What Faust does by default loses events: an exception that leaves an agent acks its batch, and
its commit arithmetic can pass events that were never acked. So here no exception leaves an
agent, a worker reads on from the positions that Redis holds rather than from committed offsets
(those serve lag tools only), and a worker that meets what it does not expect ends at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeVar

import faust
from aiokafka.errors import KafkaError
from faust.exceptions import ConsumerNotStarted, ProducerSendError
from faust.types import TP, EventT

from memory.errors import Misconfigured, Moved, Unavailable
from streams.contract.records import OutgoingRecord, Record
from streams.contract.topics import Topic
from streams.workers.faust_app import Transport, group_trouble, to_record
from streams.workers.metrics import ASSIGNED, RETRIES
from streams.workers.offsets import Offsets

log = logging.getLogger(__name__)

T = TypeVar("T")

EXIT_UNEXPECTED = 70  # EX_SOFTWARE of sysexits.h
STARTS_BEFORE_CAUTION = 2
ATTEMPTS_ALONE = 2
"""Rebalances count as starts too, so a record must itself end a worker twice to be rejected."""
MAX_BATCH_BYTES = 32 << 20
WATCH_SECONDS = 2.0


class GroupLost(Exception):
    """What keeps this worker in its consumer group has ended."""


class PositionsWentBack(Exception):
    """Redis has forgotten what it held: an older copy of it is there now."""


class Ledger(Protocol):
    """What delivery keeps in Redis, so that it survives every worker."""

    def positions(self) -> Mapping[tuple[str, int], int]: ...

    def advance(self, positions: Mapping[tuple[str, int], int]) -> None: ...

    def follow(self) -> None:
        """Go over to the generation of the memory that answers now."""
        ...

    def started_at(self, topic_id: str, partition: int, offset: int) -> int:
        """Count this start of reading; returns the starts in a row at this same offset."""
        ...

    def attempt(self, topic_id: str, partition: int, offset: int) -> int:
        """Count an attempt to process this record alone; returns the attempts so far."""
        ...

    def succeeded(self, topic_id: str, partition: int, offset: int) -> None:
        """Forget the attempts at this record."""
        ...


Handle = Callable[[Sequence[Record]], Sequence[OutgoingRecord]]
"""Carry out records; raises `Unavailable` to be called again with the same, else nothing.

It runs in a thread. What it returns is published and acknowledged before the position moves.
"""
Answer = Callable[[Record], Awaitable[Sequence[OutgoingRecord]]]
"""Answer one question on the event loop; raises nothing but `Unavailable`."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a role reads. `topic` is the full name, with its prefix.

    A call that blocks for more than `patience` seconds hangs, and ends the worker; None bounds
    nothing, for calls that may rightly take as long as the memory is large.
    """

    role: str
    topic: str
    topic_id: str
    batch: int
    patience: float | None = None


def die(what: str, error: BaseException) -> NoReturn:
    """End the process now: carrying on past what was not done would lose it.

    The last line says why; only the message of a `Misconfigured` surely quotes no event.
    """
    frames = "".join(traceback.format_tb(error.__traceback__))
    why = error if isinstance(error, Misconfigured) else f"unexpected {type(error).__name__}"
    log.critical("exiting\n%s%s: %s", frames, what, why)
    logging.shutdown()
    os._exit(EXIT_UNEXPECTED)


class Delivery:
    """Carries records of one topic to a handler, at least once, and notes how far it came."""

    def __init__(
        self,
        app: faust.App,
        source: Source,
        ledger: Ledger,
        full_name: Callable[[Topic], str],
        reject: Callable[[Record], Sequence[OutgoingRecord]],
    ) -> None:
        self._app = app
        self._source = source
        self._ledger = ledger
        self._full_name = full_name
        self._reject = reject
        self._queue: asyncio.Queue[EventT[Any]] = asyncio.Queue(2 * source.batch)
        self._threads = ThreadPoolExecutor(4, thread_name_prefix=source.role)
        self._cautious: dict[int, int] = {}
        self._assigned_at = 0.0
        self._noted: dict[tuple[str, int], int] = {}
        self._answers = False
        self.waiting_for = ""
        """Which server is away, as long as one is."""
        app.transport = Transport(app, self._seek_offsets)
        topic = app.topic(source.topic, key_type=bytes, value_type=bytes)
        app.agent(topic, name=source.role)(self._receive)
        self.watch(WATCH_SECONDS, self._check_group)
        self.watch(WATCH_SECONDS, self._check_positions)

    def in_batches(self, handle: Handle) -> None:
        """Give the handler batches, one unfinished at a time."""
        self._app.task(self._guarded(lambda: self._pump_batches(handle)))

    def in_tasks(self, answer: Answer, at_most: int) -> None:
        """Give the handler records as they come, `at_most` unfinished at a time."""
        self._answers = True
        self._app.task(self._guarded(lambda: self._pump_tasks(answer, at_most)))

    def watch(self, seconds: float, check: Callable[[], None]) -> None:
        """Run `check` in a thread now and then; what it raises, but `Unavailable`, ends this."""

        async def watching() -> None:
            while True:
                await asyncio.sleep(seconds)
                with suppress(Unavailable):
                    await asyncio.to_thread(check)

        self._app.task(self._guarded(watching))

    def assigned(self) -> int:
        """Partitions the consumer group gives this worker now."""
        try:
            return len(self._app.consumer.assignment())
        except ConsumerNotStarted:
            return 0

    async def in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        """Run what blocks off the event loop. Raises TimeoutError when it hangs."""
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._threads, function, *arguments)
        return await asyncio.wait_for(work, self._source.patience)

    async def _receive(self, stream: Any) -> None:
        async for event in stream.noack().events():
            await self._queue.put(event)

    def _guarded(
        self, pump: Callable[[], Awaitable[None]]
    ) -> Callable[[], Coroutine[Any, Any, None]]:
        async def guarded() -> None:
            try:
                await pump()
            except Exception as error:  # noqa: BLE001 - nothing may carry on after the unexpected
                die(self._source.role, error)

        return guarded

    async def _pump_batches(self, handle: Handle) -> None:
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
            if self._is_cautious(events):
                for event in events:
                    await self._process_alone(handle, event)
            else:
                await self._process(handle, events)

    async def _process(self, handle: Handle, events: Sequence[EventT[Any]]) -> None:
        records = [to_record(event) for event in events]
        while True:
            try:
                outgoing = await self._retried(lambda: self.in_thread(handle, records))
                await self._finish(events, outgoing)
            except Moved:
                # All of it again: a step that was done is in the memory that was left.
                await self._retried(lambda: self.in_thread(self._ledger.follow))
            else:
                return

    async def _process_alone(self, handle: Handle, event: EventT[Any]) -> None:
        """Process a record at which, or next to which, workers have ended before."""
        if not self._is_cautious([event]):
            await self._process(handle, [event])
        elif await self._has_ended_workers(event):
            await self._process(lambda records: self._reject(records[0]), [event])
        else:
            await self._process(handle, [event])
            await self._has_succeeded(event)

    async def _has_ended_workers(self, event: EventT[Any]) -> bool:
        """Count an attempt at this record alone; whether there have been too many."""
        attempts = await self._retried(
            lambda: self.in_thread(self._ledger.attempt, *self._place(event))
        )
        if attempts > ATTEMPTS_ALONE:
            log.error("%s %s[%d]@%d ended a worker again: rejected", *self._named(event.message))
        return attempts > ATTEMPTS_ALONE

    async def _has_succeeded(self, event: EventT[Any]) -> None:
        await self._retried(lambda: self.in_thread(self._ledger.succeeded, *self._place(event)))

    def _place(self, event: EventT[Any]) -> tuple[str, int, int]:
        return (self._source.topic_id, event.message.partition, event.message.offset)

    def _named(self, message: Any) -> tuple[str, str, int, int]:
        return (self._source.role, message.topic, message.partition, message.offset)

    def _is_cautious(self, events: Sequence[EventT[Any]]) -> bool:
        return any(
            event.message.offset < self._cautious.get(event.message.partition, 0)
            # What came since (by the log's clock) cannot have ended an earlier worker.
            and event.message.timestamp < self._assigned_at
            for event in events
        )

    async def _finish(
        self, events: Sequence[EventT[Any]], outgoing: Sequence[OutgoingRecord]
    ) -> None:
        await self.publish(outgoing)
        ends: dict[tuple[str, int], int] = {}
        for event in events:
            place = (self._source.topic_id, event.message.partition)
            ends[place] = max(ends.get(place, 0), event.message.offset + 1)
        await self._advance(ends)
        for event in events:
            event.ack()

    async def _advance(self, ends: Mapping[tuple[str, int], int]) -> None:
        def advance() -> None:
            # Redis keeps the greatest, so a gap would be passed for ever.
            self._check_positions()
            self._ledger.advance(ends)

        await self._retried(lambda: self.in_thread(advance))
        for place, end in ends.items():
            self._noted[place] = max(end, self._noted.get(place, 0))

    def _check_positions(self) -> None:
        noted = dict(self._noted)  # before the look at Redis, whose positions only rise
        held = self._ledger.positions()
        if any(held.get(place, 0) < offset for place, offset in noted.items()):
            raise PositionsWentBack

    def _check_group(self) -> None:
        if (trouble := group_trouble(self._app)) is not None:
            raise GroupLost from trouble

    async def _pump_tasks(self, answer: Answer, at_most: int) -> None:
        places = asyncio.Semaphore(at_most)
        offsets = Offsets()
        running: set[asyncio.Task[None]] = set()

        async def one(event: EventT[Any], *, alone: bool = False) -> None:
            try:
                await (self._answer_alone if alone else self._answer)(answer, event)
                offsets.finished(event.message.partition, event.message.offset)
                event.ack()
            except Exception as error:  # noqa: BLE001 - as in `_guarded`
                die(self._source.role, error)
            finally:
                places.release()

        async def note() -> None:
            if moved := offsets.moved():
                await self._advance({(self._source.topic_id, p): o for p, o in moved.items()})

        async def note_positions() -> None:
            while True:
                await asyncio.sleep(1)
                await note()

        notes = asyncio.create_task(self._guarded(note_positions)())
        try:
            while True:
                event = await self._queue.get()
                await places.acquire()
                offsets.started(event.message.partition, event.message.offset)
                if self._is_cautious([event]):
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

    async def _answer(self, answer: Answer, event: EventT[Any]) -> None:
        await self.publish(await self._retried(lambda: answer(to_record(event))))

    async def _answer_alone(self, answer: Answer, event: EventT[Any]) -> None:
        if await self._has_ended_workers(event):
            await self.publish(self._reject(to_record(event)))
        else:
            await self._answer(answer, event)
            await self._has_succeeded(event)

    async def publish(self, outgoing: Sequence[OutgoingRecord]) -> None:
        """Send, and return once every record is acknowledged by all in-sync replicas."""

        async def send_all() -> None:
            producer = await self._app.maybe_start_producer()
            try:
                sent = [
                    await producer.send(
                        self._full_name(record.topic),
                        key=record.key,
                        value=record.value,
                        partition=record.partition,
                        timestamp=None,
                        headers=list(record.headers),
                    )
                    for record in outgoing
                ]
                for acknowledgement in sent:
                    await acknowledgement
            except (ProducerSendError, KafkaError) as error:
                raise Unavailable(f"Kafka: {type(error).__name__}") from error

        if outgoing:
            await self._retried(send_all)

    async def _retried(self, step: Callable[[], Awaitable[T]]) -> T:
        """Run a step, again and again with back-off while a server is away.

        A step of a question is repeated in another generation of the memory; one of a batch
        cannot be, alone: `Moved`.
        """
        delay = 0.1
        moved = False
        while True:
            try:
                if moved:
                    await self.in_thread(self._ledger.follow)
                    moved = False
                result = await step()
            except Moved:
                if not self._answers:
                    raise
                moved = True
            except Unavailable as error:
                RETRIES.labels(self._source.role).inc()
                log.warning("%s: %s; trying again", self._source.role, type(error).__name__)
                self.waiting_for = str(error) or type(error).__name__
                await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - jitter
                delay = min(2 * delay, 5.0)
            else:
                self.waiting_for = ""
                return result

    async def _seek_offsets(self, assigned: set[TP]) -> dict[TP, int]:
        """Where to read on: what Redis holds, or the start of the log."""
        ASSIGNED.labels(self._source.role).set(len(assigned))
        self._cautious.clear()
        self._assigned_at = time.time()

        def read() -> dict[TP, int]:
            stored = self._ledger.positions()
            offsets = {}
            for tp in assigned:
                offset = stored.get((self._source.topic_id, tp.partition), 0)
                offsets[tp] = offset
                starts = self._ledger.started_at(self._source.topic_id, tp.partition, offset)
                if starts > STARTS_BEFORE_CAUTION:
                    self._cautious[tp.partition] = offset + self._source.batch
            return offsets

        try:
            offsets = await self._retried(lambda: self.in_thread(read))
            self._noted = {(self._source.topic_id, tp.partition): o for tp, o in offsets.items()}
            return offsets  # noqa: TRY300 - what follows is for what may fail
        except Exception as error:  # noqa: BLE001 - Faust would end too, but tell the message
            die(self._source.role, error)
