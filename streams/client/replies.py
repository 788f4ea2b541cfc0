"""The reply topic: hands answers to the futures that wait for them. Rejections, on demand."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future

from kafka import KafkaConsumer

from memory.errors import Misconfigured, Reason, Rejected, Unavailable, VisualMemoryError
from streams.contract import decoding
from streams.contract.cloudevents import Header
from streams.contract.messages import Answer, Rejection
from streams.contract.records import Marker, Record
from streams.contract.topics import Topic
from streams.kafka.cluster import KafkaCluster
from streams.kafka.errors import map_kafka_errors
from streams.kafka.reading import Tail, decode_known, partitions_of

POLL_SECONDS = 0.2
"""How late an overdue answer or a close may be noticed; answers themselves come at once."""


GRACE_SECONDS = 1.0
"""An answer that says it is late may itself be late by this much."""


def await_answer(answer: Future[Answer], timeout: float) -> Answer:
    """Raises `Unavailable` where none comes in time."""
    try:
        return answer.result(timeout + 5 * GRACE_SECONDS)
    except TimeoutError:
        raise Unavailable("no answer came in time; ask again") from None


class Replies:
    """Answers on one partition, handed to whoever awaits them by a single background thread.

    The thread starts with the first question, and anew if the reading failed.
    """

    def __init__(self, cluster: KafkaCluster) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._awaited: dict[str, tuple[Future[Answer], float]] = {}
        self._reader: threading.Thread | None = None
        self._partition = 0
        self._closing = threading.Event()

    def expect(self, query_id: str, timeout: float) -> tuple[int, Future[Answer]]:
        """The partition to name in a question, and the future of its answer.

        Call before the question is sent. Raises `Unavailable`, `Misconfigured`.
        """
        future: Future[Answer] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            if self._closing.is_set():
                raise Unavailable("the client is closed")
            if self._reader is None:
                self._start()
            self._awaited[query_id] = (future, time.monotonic() + timeout)
            return self._partition, future

    def fail(self, query_id: str, error: Exception) -> None:
        """Give up waiting for an answer."""
        with self._lock:
            future, _ = self._awaited.pop(query_id, (None, 0))
        if future is not None:
            future.set_exception(error)

    def close(self) -> None:
        """End the thread; questions without an answer fail with `Unavailable`."""
        self._closing.set()
        with self._lock:
            reader = self._reader
        if reader is not None and reader is not threading.current_thread():
            reader.join()

    def _start(self) -> None:
        consumer = self._cluster.consumer()
        try:
            topic = self._cluster.full_name(Topic.PREDICTION)
            found = partitions_of(self._cluster, consumer, topic)
            chosen = random.choice(found)  # noqa: S311 - spreads load
            with map_kafka_errors():
                consumer.assign([chosen])
                # Read from here on: a question sent after this is answered behind it.
                consumer.seek(chosen, consumer.end_offsets([chosen])[chosen])
        except VisualMemoryError:
            consumer.close()
            raise
        self._partition = chosen.partition
        self._reader = threading.Thread(
            target=self._read, args=(consumer,), name="visual-memory-replies", daemon=True
        )
        self._reader.start()

    def _read(self, consumer: KafkaConsumer) -> None:
        why = Unavailable("the client is closed")
        try:
            while not self._closing.is_set():
                with map_kafka_errors():
                    batches = consumer.poll(timeout_ms=int(POLL_SECONDS * 1000))
                for batch in batches.values():
                    for record in batch:
                        self._take(Record.of(record))
                self._expire()
        except Exception as error:  # noqa: BLE001 - whoever waits must be told, whatever it is
            why = Unavailable(f"answers cannot be read: {error}")
        finally:
            with self._lock:
                self._reader = None
                lost = list(self._awaited.values())
                self._awaited.clear()
            for future, _ in lost:
                future.set_exception(why)
            consumer.close()

    def _take(self, record: Record) -> None:
        """Hand an answer over; others' answers share the partition and are passed by."""
        for name, value in record.headers:
            if name == Header.QUERY_ID and value is not None:
                with self._lock:
                    future, _ = self._awaited.pop(value.decode(errors="replace"), (None, 0))
                if future is not None:
                    self._resolve(future, record)
                return

    @staticmethod
    def _resolve(future: Future[Answer], record: Record) -> None:
        try:
            answer = decoding.decode_prediction(record)
            if isinstance(answer, Marker):
                raise Rejected(Reason.INVALID_PAYLOAD, "it has no value")
        except Rejected as why:
            future.set_exception(Misconfigured(f"the answer cannot be read: {why.detail}"))
        else:
            future.set_result(answer)

    def _expire(self) -> None:
        now = time.monotonic()
        with self._lock:
            overdue = [query_id for query_id, (_, at) in self._awaited.items() if at < now]
        for query_id in overdue:
            self.fail(
                query_id,
                Unavailable("no answer came in time; see that a query worker runs, and ask again"),
            )


class Rejections:
    """The rejections of a memory, of everybody's events, from an offset on."""

    def __init__(self, tail: Tail) -> None:
        self._tail = tail

    @property
    def positions(self) -> dict[int, int]:
        """By partition, where to read on; `MemoryClient.rejections` takes it."""
        return {partition: offset for (_, partition), offset in self._tail.positions().items()}

    def poll(self, until_quiet: float = 0.5) -> Iterator[Rejection]:
        """Rejections until none comes for `until_quiet` seconds."""
        while records := self._tail.poll(until_quiet):
            yield from decode_known(records, decoding.decode_rejection)

    def __iter__(self) -> Iterator[Rejection]:
        """Rejections as they come, without end."""
        while True:
            yield from self.poll(1.0)
