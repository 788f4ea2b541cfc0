"""Delivery: what batches and single questions share of Faust's rules for offsets and rebalances.

`batch_delivery` and `task_delivery` decide when an event is done; `faust_app` has the app's
settings and its first offsets, `worker_process` its bounded end. Nothing else knows Faust's rules.

What Faust does by default loses events: an exception that leaves an agent acks its batch, and
its commit arithmetic can pass events that were never acked. So here no exception leaves an
agent, a worker reads on from the positions that Redis holds rather than from committed offsets
(those serve lag tools only), and a worker that meets what it does not expect ends at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import faust
from aiokafka.errors import KafkaError
from faust.exceptions import ConsumerNotStarted, ProducerSendError
from faust.types import TP

from memory.errors import Moved, Unavailable
from memory.model.events import LogPartition
from memory.ports import Positions
from streams.contract.records import OutgoingRecord, Record
from streams.contract.topics import Topic
from streams.kafka.log_witness import LogWitness
from streams.workers.attempts import Attempts, Suspects
from streams.workers.faust_app import Read, Transport, group_trouble, produce
from streams.workers.fetched_batches import unreadable
from streams.workers.metrics import ASSIGNED, RETRIES, UNREADABLE
from streams.workers.worker_process import exit_now

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

ATTEMPTS_ALONE = 2
"""Rebalances count as starts too, so a record must itself end a worker twice to be rejected."""
WATCH_SECONDS = 2.0


class GroupLost(Exception):
    """What keeps this worker in its consumer group has ended."""


class PositionsWentBack(Exception):
    """Redis has forgotten what it held: an older copy of it is there now."""


class LogReplaced(Exception):
    """The log was cut while this worker read it; the positions are set back to there."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a role reads. `topic` is the full name, with its prefix.

    Up to `at_once` batches of `batch` records are under way side by side. What comes right after a few
    records waits up to `gather_seconds` for more.

    A call that blocks for more than `patience` seconds hangs, and ends the worker; None bounds
    nothing, for calls that may rightly take as long as the memory is large.
    """

    role: str
    topic: str
    topic_id: str
    batch: int
    at_once: int = 1
    gather_seconds: float = 0.0
    patience: float | None = None


class Delivery:
    """Carries records of one topic to a handler, at least once, and notes how far it came.

    `positions` holds how far, `known_log` in which log, `attempts` which records ended workers;
    after too many of them `reject` says what is told in place of the handler. `full_name` names a
    topic with its prefix.
    """

    repeats_steps = False
    """Whether a step that met another generation of the memory may be repeated in it, alone."""

    def __init__(
        self,
        app: faust.App,
        source: Source,
        *,
        positions: Positions,
        known_log: LogWitness,
        attempts: Attempts,
        full_name: Callable[[Topic], str],
        reject: Callable[[Record], Sequence[OutgoingRecord]],
    ) -> None:
        self._app = app
        self._source = source
        self._positions = positions
        self._known_log = known_log
        self._attempts = attempts
        self._full_name = full_name
        self._reject = reject
        self._queue: asyncio.Queue[Read] = asyncio.Queue(2 * source.batch)
        self._threads = ThreadPoolExecutor(4, thread_name_prefix=source.role)
        reach = source.batch * source.at_once
        self._suspects = Suspects(attempts, source.topic_id, reach)
        self._noted: dict[LogPartition, int] = {}
        self._under_way = 0
        self.waiting_for = ""
        """Which server is away, as long as one is."""

    def _run(self, pump: Callable[[], Awaitable[None]]) -> None:
        """Let the app read the topic and `pump` empty the queue."""
        gather_seconds = self._source.gather_seconds
        self._app.transport = Transport(self._app, self._seek_offsets, gather_seconds)
        topic = self._app.topic(self._source.topic, key_type=bytes, value_type=bytes)
        self._app.agent(topic, name=self._source.role)(self._receive)
        self._app.task(self._exit_on_error(pump))
        self._app.on_before_shutdown.connect(self._end_in_order)
        self.watch(WATCH_SECONDS, self._check_group)
        self.watch(WATCH_SECONDS, self._check_positions)
        self.watch(WATCH_SECONDS, self._check_log)

    def watch(self, seconds: float, check: Callable[[], None]) -> None:
        """Run `check` in a thread now and then; what it raises, but `Unavailable`, ends this."""

        async def watching() -> None:
            while True:
                await asyncio.sleep(seconds)
                with suppress(Unavailable):
                    await asyncio.to_thread(check)

        self._app.task(self._exit_on_error(watching))

    def assignment_size(self) -> int:
        """Partitions the consumer group gives this worker now."""
        try:
            return len(self._app.consumer.assignment())
        except ConsumerNotStarted:
            return 0

    async def in_thread(self, function: Callable[..., _T], *arguments: object) -> _T:
        """Run what blocks off the event loop. Raises TimeoutError when it hangs."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._source.patience):
            return await loop.run_in_executor(self._threads, function, *arguments)

    async def publish(self, outgoing: Sequence[OutgoingRecord]) -> None:
        """Send, and return once every record is acknowledged by all in-sync replicas."""

        async def send_all() -> None:
            try:
                sent = [
                    await produce(self._app, self._full_name(record.topic), record)
                    for record in outgoing
                ]
                for acknowledgement in sent:
                    await acknowledgement
            except (ProducerSendError, KafkaError) as error:
                raise Unavailable(f"Kafka: {type(error).__name__}") from error

        if outgoing:
            await self._retry(send_all)

    async def _receive(self, stream: Any) -> None:
        async for event in stream.noack().events():
            last = event.value[-1]
            for record in event.value:
                self._known_log.saw(record.partition, record.offset, record.timestamp)
                await self._queue.put(Read(record, event if record is last else None))

    async def _end_in_order(self, *_: object, **_named: object) -> None:
        """Take back that reading began here, unless what is under way may end this worker yet."""
        if not self._under_way:
            with suppress(Unavailable):
                await self.in_thread(self._suspects.take_back)

    def _exit_on_error(
        self, pump: Callable[[], Awaitable[None]]
    ) -> Callable[[], Coroutine[Any, Any, None]]:
        async def exiting() -> None:
            try:
                await pump()
            except Exception as error:  # noqa: BLE001 - nothing may carry on after the unexpected
                exit_now(self._source.role, error)

        return exiting

    async def _has_ended_workers(self, record: Record) -> bool:
        """Count an attempt at this record alone; whether there have been too many."""
        attempts = await self._count(self._attempts.count_attempt, record)
        if attempts > ATTEMPTS_ALONE:
            place = (self._source.role, record.topic, record.partition, record.offset)
            _log.error("%s %s[%d]@%d ended a worker again: rejected", *place)
        return attempts > ATTEMPTS_ALONE

    async def _count(self, count: Callable[[str, int, int], _T], record: Record) -> _T:
        place = (self._source.topic_id, record.partition, record.offset)
        return await self._retry(lambda: self.in_thread(count, *place))

    async def _advance(self, ends: Mapping[LogPartition, int]) -> None:
        await self._retry(lambda: self.in_thread(self._advance_now, ends))

    def _advance_now(self, ends: Mapping[LogPartition, int]) -> None:
        youngest = self._known_log.keep(place.partition for place in ends)
        # Redis keeps the greatest, so a gap would be passed for ever.
        noted = {place: self._noted.get(place, 0) for place in ends}
        if not self._positions.advance(ends, youngest, noted):
            raise PositionsWentBack
        for place, end in ends.items():
            self._noted[place] = max(end, noted[place])

    def _log_partition(self, partition: int) -> LogPartition:
        return LogPartition(self._source.topic_id, partition)

    def _check_positions(self) -> None:
        noted = dict(self._noted)  # before the look at Redis, whose positions only rise
        held = self._positions.positions()
        if any(held.get(partition, 0) < offset for partition, offset in noted.items()):
            raise PositionsWentBack

    def _check_log(self) -> None:
        if not self._known_log.check([place.partition for place in dict(self._noted)]):
            raise LogReplaced

    def _check_group(self) -> None:
        if (trouble := group_trouble(self._app)) is not None:
            raise GroupLost from trouble

    async def _retry(self, step: Callable[[], Awaitable[_T]]) -> _T:
        """Run a step, again and again with back-off while a server is away.

        A step of a question is repeated in another generation of the memory; one of a batch
        cannot be, alone: `Moved`.
        """
        delay = 0.1
        moved = False
        while True:
            try:
                if moved:
                    await self.in_thread(self._positions.follow)
                    moved = False
                result = await step()
            except Moved:
                if not self.repeats_steps:
                    raise
                moved = True
            except Unavailable as error:
                RETRIES.labels(self._source.role).inc()
                _log.warning("%s: %s; trying again", self._source.role, type(error).__name__)
                self.waiting_for = str(error) or type(error).__name__
                await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - jitter
                delay = min(2 * delay, 5.0)
            else:
                self.waiting_for = ""
                return result

    async def _seek_offsets(self, assigned: set[TP]) -> dict[TP, int]:
        """Where to read on: what Redis holds, or the start of the log."""
        ASSIGNED.labels(self._source.role).set(len(assigned))
        unreadable.clear()
        UNREADABLE.labels(self._source.topic).set(0)

        def read() -> dict[TP, int]:
            self._known_log.check([tp.partition for tp in assigned], anew=True)
            stored = self._positions.positions()
            offsets = {tp: stored.get(self._log_partition(tp.partition), 0) for tp in assigned}
            self._suspects.begin({tp.partition: offset for tp, offset in offsets.items()})
            return offsets

        try:
            offsets = await self._retry(lambda: self.in_thread(read))
            self._noted = {self._log_partition(tp.partition): o for tp, o in offsets.items()}
            return offsets  # noqa: TRY300 - what follows is for what may fail
        except Exception as error:  # noqa: BLE001 - Faust would end too, but tell the message
            exit_now(self._source.role, error)
