"""The Faust app: its settings, its consumer and that one's first offsets.

Part of delivery: with delivery.py the only place that knows Faust from inside.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from asyncio import Task
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack
from inspect import isawaitable
from typing import Any, NamedTuple

import faust
from aiokafka.errors import KafkaError
from faust.exceptions import ConsumerNotStarted
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, EventT
from mode.services import WaitResults

from memory.errors import Unavailable
from memory.redis.connection import CALLS_AT_ONCE
from streams.contract.records import OutgoingRecord, Record
from streams.kafka.cluster import Security
from streams.workers import worker_process
from streams.workers.fetched_batches import patch_aiokafka

_log = logging.getLogger(__name__)

BATCH_BYTES = 1 << 20
FEW = CALLS_AT_ONCE
"""So many records cost a role that writes little more than one does: Redis takes them in one call."""


class Read(NamedTuple):
    """A record, and the event of Faust's that it is the last of."""

    record: Record
    event: EventT[Any] | None

    def ack(self) -> None:
        """Let the consumer group know, for lag tools alone."""
        if self.event is not None:
            self.event.ack()


Seek = Callable[[set[TP]], Awaitable[dict[TP, int]]]


class _ConsumerInLoop(driver.AIOKafkaConsumerThread):
    """Faust's consumer thread without the thread: it runs on the app's loop.

    To be handed from loop to loop and back costs a fetch more than it takes to be read. No role's work
    keeps the loop from its heartbeats: what blocks is in threads (`Delivery.in_thread`).
    """

    def __init__(self, consumer: Any, *, loop: Any, **named: Any) -> None:
        super().__init__(consumer, loop=loop, thread_loop=loop, **named)

    async def start(self) -> None:
        self._thread_started.set()
        await self._default_start()

    async def call_thread(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        found = fun(*args, **kwargs)
        return await found if isawaitable(found) else found

    async def stop(self) -> None:
        if self._started.is_set() and not self._stopped.is_set():
            self._stopped.set()
            await self._shutdown_thread()

    def _create_worker_consumer(self, transport: driver.Transport) -> Any:
        consumer: Any = super()._create_worker_consumer(transport)
        # Faust asks for it with its own transactions only.
        consumer._isolation_level = "read_committed"  # noqa: SLF001 - as above
        return consumer


class _Consumer(driver.Consumer):
    """Reads on from given offsets in place of the consumer group's commits."""

    seek_offsets: Seek
    gather_seconds: float

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._before: dict[tuple[TP, int], int] = {}
        self._gathers_until = 0.0

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Keep what stands before a message's offset until it is acked: a tree of gaps, as
        Faust's, takes a tenth of a question's time where each fetch leaves one.
        """
        self._before[tp, offset_to] = offset_from

    def ack(self, message: Any) -> bool:
        """Let all that a message holds be committed with it."""
        start = self._before.pop((message.tp, message.offset), None)
        if start is not None:
            self._acked[message.tp].extend(range(start, message.offset))
        return super().ack(message)

    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return _ConsumerInLoop(self, loop=self.loop, beacon=self.beacon)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:  # noqa: ASYNC109 - Faust's
        """What was fetched, a message a partition: a record alone costs Faust 150 µs on its way.

        Such a message has the offset of its last record, and all of them as its value. What comes right
        after a few waits for more.
        """
        if (wait := self._gathers_until - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        try:
            fetched, active = await self._wait_next_records(timeout)
        except KafkaError:
            if group_trouble(self.app) is not None:
                # Delivery sees it too, and ends the worker with a last line that says so.
                await self.sleep(worker_process.SHUTDOWN_SECONDS)
            raise
        count = sum(map(len, (fetched or {}).values()))
        self._gathers_until = time.monotonic() + self.gather_seconds if 0 < count < FEW else 0.0
        generation = self.app.consumer_generation_id
        for tp, records in (fetched or {}).items():
            if not self.flow_active or self.app.consumer_generation_id != generation:
                return
            if records and (active is None or tp in active):
                message: Any = self._to_message(tp, records[-1])
                message.value = [Record.of(record) for record in records]
                yield tp, message

    async def sleep(self, n: Any) -> None:
        """As Faust's, which takes a task and its end to let others run for a moment."""
        await (super().sleep(n) if n else asyncio.sleep(0))

    async def wait_first(self, *awaited: Any, timeout: Any = None) -> WaitResults:  # noqa: ASYNC109 - Faust's
        """As Faust's, which takes four tasks a message, though its stream has room as a rule."""
        first, *others = awaited
        if not isawaitable(first):
            return await super().wait_first(*awaited, timeout=timeout)
        with ExitStack() as unused:
            for other in others:
                unused.callback(other.close)
            task = asyncio.ensure_future(first)
            unused.callback(task.cancel)
            await asyncio.sleep(0)
            if task.done() and not self.should_stop:
                return WaitResults([first], [task.result()], stopped=False)
            unused.pop_all()
        return await super().wait_first(task, *others, timeout=timeout)

    def on_buffer_full(self, tp: TP) -> None:
        """Let a full stream keep the reader waiting: a pause of its partition is a fetch lost."""

    async def seek_to_committed(self) -> Mapping[TP, int]:
        self._before.clear()
        offsets = await self.seek_offsets(set(self.assignment()))
        # An offset outside the log (records expired) is reset to its start by the driver.
        await self.seek_wait(offsets)
        return offsets


class Transport(driver.Transport):
    def __init__(self, app: faust.App, seek_offsets: Seek, gather_seconds: float) -> None:
        super().__init__(app.conf.broker_consumer, app)

        own = {"seek_offsets": staticmethod(seek_offsets), "gather_seconds": gather_seconds}
        consumer: Any = type("Consumer", (_Consumer,), own)
        # The driver's own extension point, declared for classes only.
        self.Consumer = consumer  # type: ignore[misc]


def credentials(security: Security) -> faust.SASLCredentials | faust.SSLCredentials | None:
    """What Faust logs in to Kafka with, from kafka-python's SASL and TLS arguments."""
    context = security.get("ssl_context")
    if "sasl_mechanism" in security:
        return faust.SASLCredentials(
            username=security["sasl_plain_username"],
            password=security["sasl_plain_password"],
            mechanism=security["sasl_mechanism"],
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context else None


def make_app(
    group: str,
    bootstrap: str,
    *,
    instance: str | None,
    max_record_bytes: int,
    batch: int,
    credentials: faust.SASLCredentials | faust.SSLCredentials | None = None,
) -> faust.App:
    """A Faust app with the settings delivery relies on; it is handed `batch` records at most.

    `credentials` are Faust's for the brokers, None for plain text.

    A worker that comes back under the same `instance` gets its partitions at once; without one
    they stand still until the session of the dead worker has timed out.
    """
    patch_aiokafka()
    brokers = ";".join(f"kafka://{server}" for server in bootstrap.split(","))
    return faust.App(
        group,
        broker=brokers,
        broker_credentials=credentials,
        store="memory://",
        # Nothing is kept there, but Faust makes the folder, else in the working directory. Not
        # under a name that somebody else on the machine could foresee.
        datadir=tempfile.mkdtemp(prefix="visual-memory-"),
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
        # Of a record each, a request for every answer costs more than the answer.
        producer_max_batch_size=BATCH_BYTES,
        producer_max_request_size=max(1 << 20, 2 * max_record_bytes),
        # A dead worker's partitions stand still for this long.
        broker_session_timeout=8.0,
        broker_heartbeat_interval=2.0,
        broker_commit_interval=1.0,
        stream_wait_empty=False,
        broker_max_poll_records=batch,
        # A message is what was fetched of a partition.
        stream_buffer_maxsize=1,
    )


async def produce(app: faust.App, topic: str, record: OutgoingRecord) -> Awaitable[Any]:
    """Hand over a record to be sent; what is returned ends once all in-sync replicas have it."""
    producer = app.producer
    if not producer.started:  # to ask for it each time costs three turns of the loop
        producer = await app.maybe_start_producer()
    return await producer.send(
        topic,
        key=record.key,
        value=record.value,
        partition=record.partition,
        timestamp=None,
        headers=list(record.headers),
    )


def group_trouble(app: Any) -> BaseException | None:
    """What ended the task that keeps this worker in its consumer group, if anything did.

    aiokafka logs it and Faust never looks: such a worker lives on without partitions.
    """
    consumer: Any = app.consumer
    client = getattr(consumer._thread, "_consumer", None)  # noqa: SLF001 - told nowhere else
    keeping: Task[None] | None = getattr(
        getattr(client, "_coordinator", None), "_coordination_task", None
    )
    if keeping is None or not keeping.done() or keeping.cancelled():
        return None
    return keeping.exception()


async def log_ends(app: faust.App) -> dict[int, int]:
    """By partition that this worker has, the offset of the next record. Raises `Unavailable`."""
    try:
        consumer: Any = app.consumer
        ends = await consumer.highwaters(*consumer.assignment())
    except (ConsumerNotStarted, KafkaError) as error:
        raise Unavailable(f"Kafka: {type(error).__name__}") from error
    return {tp.partition: end for tp, end in ends.items()}
