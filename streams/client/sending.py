"""Events on their way into the log, and how many bytes of them may be."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from memory.errors import Unavailable
from memory.model.answers import Position
from streams.kafka.cluster import BLOCK_SECONDS
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
        return Position(said.topic, self._topic_id, said.partition, said.offset)


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
