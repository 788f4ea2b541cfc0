"""Delivery: the one module that knows Faust's rules for acks, offsets and rebalances.

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
import signal
import tempfile
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import faust
from aiokafka.errors import KafkaError
from faust.exceptions import ConsumerNotStarted, ProducerSendError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, EventT

from memory.errors import Unavailable
from streams.events import OutgoingRecord, Record, Topic
from streams.garbled import tolerate_garbled_headers
from streams.metrics import ASSIGNED, RETRIES

log = logging.getLogger(__name__)

T = TypeVar("T")

EXIT_UNEXPECTED = 70  # EX_SOFTWARE of sysexits.h
SHUTDOWN_SECONDS = 12.0
STARTS_BEFORE_CAUTION = 2
ATTEMPTS_ALONE = 2
"""Rebalances count as starts too, so a record must itself end a worker twice to be rejected."""
MAX_BATCH_BYTES = 32 << 20


class Ledger(Protocol):
    """What delivery keeps in Redis, so that it survives every worker."""

    def positions(self) -> Mapping[tuple[str, int], int]: ...

    def advance(self, positions: Mapping[tuple[str, int], int]) -> None: ...

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
    """What a role reads. `topic` is the full name, with its prefix."""

    role: str
    topic: str
    topic_id: str
    batch: int


def die(what: str, error: BaseException) -> NoReturn:
    """End the process now: carrying on past what was not done would lose it.

    The message of the exception is left out, since it may quote an event.
    """
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.critical("%s: unexpected %s; exiting\n%s", what, type(error).__name__, frames)
    logging.shutdown()
    os._exit(EXIT_UNEXPECTED)


def end_within(seconds: float) -> None:
    """Bound a shutdown: Faust can wait for ever for events that are not acked."""
    timer = threading.Timer(seconds, os._exit, args=(0,))
    timer.daemon = True
    timer.start()


class BoundedWorker(faust.Worker):
    """A Faust worker whose SIGTERM and SIGINT always end it."""

    def _on_sigterm(self) -> None:
        end_within(SHUTDOWN_SECONDS)
        super()._on_sigterm()

    def _on_sigint(self) -> None:
        end_within(SHUTDOWN_SECONDS)
        self._schedule_shutdown(signal.SIGINT)


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
        self.waiting_for = ""
        """Which server is away, as long as one is."""
        app.transport = _Transport(app, self._seek_offsets)
        topic = app.topic(source.topic, key_type=bytes, value_type=bytes)
        app.agent(topic, name=source.role)(self._receive)

    def in_batches(self, handle: Handle) -> None:
        """Give the handler batches, one unfinished at a time."""
        self._app.task(self._guarded(lambda: self._pump_batches(handle)))

    def in_tasks(self, answer: Answer, at_most: int) -> None:
        """Give the handler records as they come, `at_most` unfinished at a time."""
        self._app.task(self._guarded(lambda: self._pump_tasks(answer, at_most)))

    def assigned(self) -> int:
        """Partitions the consumer group gives this worker now."""
        try:
            return len(self._app.consumer.assignment())
        except ConsumerNotStarted:
            return 0

    async def in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        """Run what blocks off the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, function, *arguments)

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
        outgoing = await self._retried(lambda: self.in_thread(handle, records))
        await self._finish(events, outgoing)

    async def _process_alone(self, handle: Handle, event: EventT[Any]) -> None:
        """Process a record at which, or next to which, workers have ended before."""
        message = event.message
        place = (self._source.topic_id, message.partition, message.offset)
        if not self._is_cautious([event]):
            await self._process(handle, [event])
        elif (
            await self._retried(lambda: self.in_thread(self._ledger.attempt, *place))
            > ATTEMPTS_ALONE
        ):
            log.error("%s %s[%d]@%d ended a worker again: rejected", *self._named(message))
            await self._finish([event], self._reject(to_record(event)))
        else:
            await self._process(handle, [event])
            await self._retried(lambda: self.in_thread(self._ledger.succeeded, *place))

    def _named(self, message: Any) -> tuple[str, str, int, int]:
        return (self._source.role, message.topic, message.partition, message.offset)

    def _is_cautious(self, events: Sequence[EventT[Any]]) -> bool:
        return any(
            event.message.offset < self._cautious.get(event.message.partition, 0)
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
        await self._retried(lambda: self.in_thread(self._ledger.advance, ends))

    async def _pump_tasks(self, answer: Answer, at_most: int) -> None:
        places = asyncio.Semaphore(at_most)
        offsets = Offsets()
        running: set[asyncio.Task[None]] = set()

        async def one(event: EventT[Any]) -> None:
            try:
                outgoing = await self._retried(lambda: answer(to_record(event)))
                await self.publish(outgoing)
                offsets.finished(event.message.partition, event.message.offset)
                event.ack()
            except Exception as error:  # noqa: BLE001 - as in `_guarded`
                die(self._source.role, error)
            finally:
                places.release()

        async def note_positions() -> None:
            while True:
                await asyncio.sleep(1)
                moved = offsets.moved()
                if moved:
                    await self._advance({(self._source.topic_id, p): o for p, o in moved.items()})

        notes = asyncio.create_task(self._guarded(note_positions)())
        try:
            while True:
                event = await self._queue.get()
                await places.acquire()
                offsets.started(event.message.partition, event.message.offset)
                task = asyncio.create_task(one(event))
                running.add(task)
                task.add_done_callback(running.discard)
        finally:
            notes.cancel()

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
        """Run a step, again and again with back-off while a server is away."""
        delay = 0.1
        while True:
            try:
                result = await step()
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
            return await self._retried(lambda: self.in_thread(read))
        except Exception as error:  # noqa: BLE001 - Faust would end too, but tell the message
            die(self._source.role, error)


@dataclass(slots=True)
class Offsets:
    """Which offsets of each partition are finished when they finish in any order."""

    _open: dict[int, set[int]] = field(default_factory=dict)
    _next: dict[int, int] = field(default_factory=dict)
    _noted: dict[int, int] = field(default_factory=dict)

    def started(self, partition: int, offset: int) -> None:
        self._open.setdefault(partition, set()).add(offset)
        self._next[partition] = max(self._next.get(partition, 0), offset + 1)

    def finished(self, partition: int, offset: int) -> None:
        self._open[partition].discard(offset)

    def moved(self) -> dict[int, int]:
        """By partition, the offset below which all is finished, where it grew since last asked."""
        moved = {}
        for partition, following in self._next.items():
            below = min(self._open[partition], default=following)
            if below > self._noted.get(partition, 0):
                moved[partition] = self._noted[partition] = below
        return moved


def to_record(event: EventT[Any]) -> Record:
    """Faust's event as the contract's record; its time in µs."""
    message: Any = event.message
    return Record(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        key=message.key,
        value=message.value,
        headers=tuple(message.headers or ()),
        timestamp=round(message.timestamp * 1_000_000),
    )


Seek = Callable[[set[TP]], Awaitable[dict[TP, int]]]


class _Consumer(driver.Consumer):
    """Reads on from given offsets in place of the consumer group's commits."""

    seek_offsets: Seek

    async def seek_to_committed(self) -> Mapping[TP, int]:
        offsets = await self.seek_offsets(set(self.assignment()))
        # An offset outside the log (records expired) is reset to its start by the driver.
        await self.seek_wait(offsets)
        return offsets


class _Transport(driver.Transport):
    def __init__(self, app: faust.App, seek_offsets: Seek) -> None:
        super().__init__(app.conf.broker_consumer, app)

        consumer: Any = type("Consumer", (_Consumer,), {"seek_offsets": staticmethod(seek_offsets)})
        # The driver's own extension point, declared for classes only.
        self.Consumer = consumer  # type: ignore[misc]


def make_app(
    group: str,
    bootstrap: str,
    *,
    instance: str | None,
    max_record_bytes: int,
    buffer: int,
    credentials: Any = None,
) -> faust.App:
    """A Faust app with the settings delivery relies on; `buffer` is in records a partition.

    `credentials` are Faust's for the brokers, None for plain text.

    A worker that comes back under the same `instance` gets its partitions at once; without one
    they stand still until the session of the dead worker has timed out.
    """
    tolerate_garbled_headers()
    brokers = ";".join(f"kafka://{server}" for server in bootstrap.split(","))
    return faust.App(
        group,
        broker=brokers,
        broker_credentials=credentials,
        store="memory://",
        # Nothing is kept there, but Faust makes the folder, else in the working directory.
        datadir=str(Path(tempfile.gettempdir()) / "visual-memory-faust"),
        key_serializer="raw",
        value_serializer="raw",
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=instance,
        consumer_max_fetch_size=max(1 << 20, 2 * max_record_bytes),
        producer_acks=-1,
        producer_linger=0,
        producer_max_request_size=max(1 << 20, 2 * max_record_bytes),
        # A dead worker's partitions stand still for this long.
        broker_session_timeout=8.0,
        broker_heartbeat_interval=2.0,
        broker_commit_interval=1.0,
        stream_wait_empty=False,
        stream_buffer_maxsize=buffer,
    )


def run(app: faust.App, log_level: str) -> NoReturn:
    """Run a worker until a signal or the unexpected ends it."""
    worker = BoundedWorker(app, loglevel=log_level, redirect_stdouts=False)
    worker.execute_from_commandline()
