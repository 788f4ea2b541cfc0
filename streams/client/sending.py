"""Events on their way into the log, and how many bytes of them may be."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from kafka import KafkaProducer

from memory.errors import Reason, Rejected, Unavailable
from memory.model.answers import Position
from streams.contract.records import OutgoingRecord
from streams.contract.topics import HEADROOM, Topic
from streams.kafka import admin
from streams.kafka.cluster import BLOCK_SECONDS, KafkaCluster
from streams.kafka.errors import map_kafka_errors

MAX_UNSENT = 64 << 20
"""Bytes that may wait to be acknowledged: kafka-python itself sets no bound."""
RECORD_OVERHEAD = 1 << 10


class Pending:
    """An event on its way into the log."""

    def __init__(self, event_id: str, sent: Any, topic_id: str) -> None:
        self.event_id = event_id
        self._sent = sent
        self._topic_id = topic_id

    def position(self, timeout: float = 30.0) -> Position:
        """Where the log has it, once all in-sync replicas do.

        After `Unavailable` the event may still have arrived: send it again with the same id,
        which makes it the same event.
        """
        with map_kafka_errors():
            said = self._sent.get(timeout)
        time = said.timestamp * 1000 if said.timestamp >= 0 else None
        return Position(said.topic, self._topic_id, said.partition, said.offset, time)


class ForgetRequest(Pending):
    """A request to forget on its way. `request_id` is the one that its receipts name."""

    def __init__(
        self,
        event_id: str,
        sent: Any,
        topic_id: str,
        request_id: str,
        start: Mapping[tuple[str, int], int],
    ) -> None:
        super().__init__(event_id, sent, topic_id)
        self.request_id = request_id
        self.start = start


class Unsent:
    """Bytes on their way; whoever would add too many waits."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._changed = threading.Condition()

    def add(self, size: int) -> None:
        with self._changed:
            if not self._changed.wait_for(self._has_room(size), BLOCK_SECONDS):
                raise Unavailable("Kafka: too much waits to be acknowledged")
            self._bytes += size

    def remove(self, size: int) -> None:
        with self._changed:
            self._bytes -= size
            self._changed.notify_all()

    def _has_room(self, size: int) -> Callable[[], bool]:
        return lambda: self._bytes == 0 or self._bytes + size <= self._limit


class Sender:
    """Sends records to a memory's topics, a bounded number of bytes at a time. Connects at first.

    `limit` bounds a record's value, in bytes. Safe for many threads.
    """

    def __init__(self, cluster: KafkaCluster, limit: int) -> None:
        self._cluster = cluster
        self._limit = limit
        self._lock = threading.Lock()
        self._producers: dict[float, KafkaProducer] = {}
        self._topic_ids: dict[Topic, str] = {}
        self._unsent = Unsent(MAX_UNSENT)
        self._closed = False

    def check_size(self, size: int) -> None:
        """Raise `Rejected` for an image of more bytes than the memory takes."""
        if size > self._limit:
            raise Rejected(
                Reason.IMAGE_TOO_LARGE,
                f"the image has {size} bytes, the limit is {self._limit}: send a smaller one, or "
                "raise max_record_bytes here and VISUAL_MEMORY_MAX_IMAGE_BYTES at the memory",
            )

    def send(self, record: OutgoingRecord, linger_ms: float = 5) -> tuple[Any, str]:
        """(kafka-python's future, topic id) of a record sent."""
        self.check_size(len(record.value or b""))
        beside = record.size - len(record.value or b"")
        if beside > HEADROOM - RECORD_OVERHEAD:
            raise Rejected(
                Reason.INVALID_HEADER,
                f"ids, subjects and attributes take {beside} bytes, the limit is "
                f"{HEADROOM - RECORD_OVERHEAD}: send fewer or shorter ones",
            )
        topic_id, producer = self._connect(record.topic, linger_ms)
        self._unsent.add(record.size)
        try:
            with map_kafka_errors():
                sent = producer.send(
                    self._cluster.full_name(record.topic),
                    key=record.key,
                    value=record.value,
                    headers=list(record.headers),
                )
        except BaseException:
            self._unsent.remove(record.size)
            raise
        sent.add_both(lambda _: self._unsent.remove(record.size))
        return sent, topic_id

    def _connect(self, topic: Topic, linger_ms: float) -> tuple[str, KafkaProducer]:
        with self._lock:
            if self._closed:
                raise Unavailable("the client is closed")
            if topic not in self._topic_ids:
                name = self._cluster.full_name(topic)
                self._topic_ids[topic] = admin.topic_ids(self._cluster, [name])[name]
            if linger_ms not in self._producers:
                self._producers[linger_ms] = self._cluster.producer(
                    linger_ms=linger_ms,
                    batch_size=1 << 16,
                    max_request_size=self._limit + HEADROOM,
                )
            return self._topic_ids[topic], self._producers[linger_ms]

    def flush(self, timeout: float) -> None:
        """Return when everything sent so far is acknowledged or has failed."""
        with self._lock:
            producers = list(self._producers.values())
        with map_kafka_errors():
            for producer in producers:
                producer.flush(timeout)

    def close(self, timeout: float) -> None:
        """Send what waits, then disconnect; nothing can be sent any more."""
        with self._lock:
            self._closed = True
            producers, self._producers = list(self._producers.values()), {}
        with map_kafka_errors():
            for producer in producers:
                producer.close(timeout)
