"""What the memory says, read by an asker: answers in the background, all else on demand."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import TypeVar

from kafka import KafkaConsumer, TopicPartition

from memory.errors import Misconfigured, Reason, Rejected, Unavailable, VisualMemoryError
from streams.contract import codec
from streams.contract.messages import Answer, Header, Marker, Record, Rejection
from streams.kafka import cluster
from streams.kafka.admin import topic_ids
from streams.kafka.cluster import Security, mapped_errors

T = TypeVar("T")

POLL_SECONDS = 0.2
"""How late an overdue answer or a close may be noticed; answers themselves come at once."""


def partitions_of(
    consumer: KafkaConsumer, topic: str, bootstrap: str, security: Security
) -> list[TopicPartition]:
    """All partitions of a topic. Raises `Misconfigured` if it is missing or not ours to see."""
    with mapped_errors():
        partitions = consumer.partitions_for_topic(topic)
    if not partitions:
        topic_ids(bootstrap, [topic], security)  # tells which of the two it is
        raise Misconfigured(f"{topic}: the topic is missing; create it with `visual-memory topics`")
    return [TopicPartition(topic, partition) for partition in sorted(partitions)]


class Replies:
    """Answers on one partition, handed to whoever awaits them by a single background thread.

    The thread starts with the first question, and anew if the reading failed.
    """

    def __init__(self, bootstrap: str, topic: str, security: Security) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._security = security
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
        consumer = cluster.consumer(self._bootstrap, self._security)
        try:
            found = partitions_of(consumer, self._topic, self._bootstrap, self._security)
            chosen = random.choice(found)  # noqa: S311 - spreads load
            with mapped_errors():
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
                with mapped_errors():
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
            answer = codec.decode_prediction(record)
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


class Tail:
    """Records of some topics from given offsets, or from the present end. For one thread."""

    def __init__(
        self,
        bootstrap: str,
        topics: Sequence[str],
        security: Security,
        start: Mapping[tuple[str, int], int] | None = None,
    ) -> None:
        self._consumer = cluster.consumer(bootstrap, security)
        try:
            partitions = [
                tp
                for topic in topics
                for tp in partitions_of(self._consumer, topic, bootstrap, security)
            ]
            with mapped_errors():
                self._consumer.assign(partitions)
                ends = self._consumer.end_offsets(partitions) if start is None else {}
                for tp in partitions:
                    given = (start or {}).get((tp.topic, tp.partition), 0)
                    self._consumer.seek(tp, ends.get(tp, given))
        except VisualMemoryError:
            self._consumer.close()
            raise

    def ends(self) -> dict[tuple[str, int], int]:
        """By (topic, partition), the offset that the next record will have."""
        with mapped_errors():
            found = self._consumer.end_offsets(sorted(self._consumer.assignment()))
        return {(tp.topic, tp.partition): end for tp, end in found.items()}

    def positions(self) -> dict[tuple[str, int], int]:
        """By (topic, partition), the offset to read on from."""
        with mapped_errors():
            return {
                (tp.topic, tp.partition): self._consumer.position(tp)
                for tp in self._consumer.assignment()
            }

    def poll(self, timeout: float) -> list[Record]:
        """What is there, waiting at most `timeout` seconds for a first record."""
        with mapped_errors():
            batches = self._consumer.poll(timeout_ms=max(0, int(timeout * 1000)))
        return [Record.of(record) for batch in batches.values() for record in batch]

    def close(self) -> None:
        self._consumer.close()


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
            yield from understood(records, codec.decode_rejection)

    def __iter__(self) -> Iterator[Rejection]:
        """Rejections as they come, without end."""
        while True:
            yield from self.poll(1.0)


def understood(records: Sequence[Record], decode: Callable[[Record], T | Marker]) -> Iterator[T]:
    """What records say; those of another version are passed by."""
    for record in records:
        try:
            said = decode(record)
        except Rejected:
            continue
        if not isinstance(said, Marker):
            yield said
