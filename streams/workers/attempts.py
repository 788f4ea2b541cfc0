"""Counts of starts and attempts in Redis, by which a record that ends its worker is found."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import redis

from memory.errors import Unavailable
from memory.model.times import SECOND
from memory.redis.connection import map_redis_errors
from streams.contract.records import Record

STARTS_BEFORE_SUSPICION = 1
"""One record after another costs little, beside one more worker that is ended."""


class Attempts(Protocol):
    """Counts that survive every worker: they tell a record that ends workers from one met by chance."""

    def count_start(self, topic_id: str, partition: int, offset: int, *, within: int = 1) -> int:
        """Count this start of reading; returns the starts in a row, this one included.

        In a row are starts each less than `within` records behind the one before.
        """
        ...

    def clear_starts(self, topic_id: str, partition: int) -> None:
        """Forget the starts of reading: what was read did not end its worker."""
        ...

    def count_attempt(self, topic_id: str, partition: int, offset: int) -> int:
        """Count an attempt to process this record alone; returns the attempts so far."""
        ...

    def holds_attempts(self, topic_id: str, partition: int, offset: int) -> bool:
        """Whether a record from this offset on was attempted alone, and that has not ended."""
        ...

    def withdraw(self, topic_id: str, partition: int, offset: int) -> None:
        """Take back the last attempt, which did not end the worker but has not ended either."""
        ...

    def clear(self, topic_id: str, partition: int, offset: int) -> None:
        """Forget the attempts at a record that was processed, or rejected."""
        ...


class Suspects:
    """The records that may have ended a worker, so that each is processed alone.

    They are up to `reach` records behind where reading began twice in a row, or where one was attempted alone.
    """

    def __init__(self, attempts: Attempts, topic_id: str, reach: int) -> None:
        self._attempts = attempts
        self._topic_id = topic_id
        self._reach = reach
        self._read: Collection[int] = ()
        self._ends: Mapping[int, int] = {}
        self._began = 0.0

    def begin(self, offsets: Mapping[int, int]) -> None:
        """Count that reading begins at these offsets, by partition."""
        began, ends = time.time(), {}
        for partition, offset in offsets.items():
            place = (self._topic_id, partition, offset)
            starts = self._attempts.count_start(*place, within=self._reach)
            # Found one by one, a record that ends workers has a new offset to start at.
            if starts > STARTS_BEFORE_SUSPICION or self._attempts.holds_attempts(*place):
                ends[partition] = offset + self._reach
        self._read, self._ends, self._began = frozenset(offsets), ends, began

    def take_back(self) -> None:
        """Take back that reading began: nothing that was read ended this worker, and it ends now.

        Else the next start would be the second in a row.
        """
        for partition in self._read:
            self._attempts.clear_starts(self._topic_id, partition)

    def include(self, record: Record) -> bool:
        return (
            record.offset < self._ends.get(record.partition, 0)
            # What came since (by the log's clock) cannot have ended an earlier worker.
            and record.timestamp < self._began * SECOND
        )


class RecordAttempts:
    """Starts and attempts of one role.

    They tell a record that ends its worker (a decoder that crashes, memory that runs out) from
    one that a worker merely met: delivery isolates the former.
    """

    def __init__(self, client: redis.Redis, namespace: str, role: str) -> None:
        self._client: Any = client  # redis-py's types assume replies decoded to text
        self._starts = f"{namespace}:starts:{role}"
        self._attempts = f"{namespace}:attempts:{role}"

    def count_start(self, topic_id: str, partition: int, offset: int, *, within: int = 1) -> int:
        """Starts of reading in a row, this one included, each `within` records of the last."""
        place = f"{topic_id}:{partition}"
        with map_redis_errors():
            before = self._client.hget(self._starts, place)
        last, starts = (int(n) for n in before.split(b":")) if before else (offset, 0)
        starts = starts + 1 if 0 <= offset - last < within else 1
        # A full Redis refuses to count, but must not keep a worker from forgetting.
        with contextlib.suppress(Unavailable), map_redis_errors():
            self._client.hset(self._starts, place, f"{offset}:{starts}")
        return starts

    def clear_starts(self, topic_id: str, partition: int) -> None:
        """Let the next start of reading be the first in a row."""
        with map_redis_errors():
            self._client.hdel(self._starts, f"{topic_id}:{partition}")

    def count_attempt(self, topic_id: str, partition: int, offset: int) -> int:
        """Attempts to process this record alone, this one included."""
        place = f"{topic_id}:{partition}:{offset}"
        with map_redis_errors():
            attempts = int(self._client.hget(self._attempts, place) or 0) + 1
        self._add(place, 1)
        return attempts

    def holds_attempts(self, topic_id: str, partition: int, offset: int) -> bool:
        """Whether a record from this offset on was attempted alone, and that has not ended."""
        with map_redis_errors():
            attempts = self._client.hgetall(self._attempts)
        return any(
            place.startswith(f"{topic_id}:{partition}:".encode())
            and int(place.rpartition(b":")[2]) >= offset
            and int(number) > 0
            for place, number in attempts.items()
        )

    def withdraw(self, topic_id: str, partition: int, offset: int) -> None:
        """Take back the last attempt, which did not end the worker but has not ended either."""
        self._add(f"{topic_id}:{partition}:{offset}", -1)

    def _add(self, place: str, number: int) -> None:
        # As above: starts at the same offset add up wherever a topic is quiet for long.
        with contextlib.suppress(Unavailable), map_redis_errors():
            self._client.hincrby(self._attempts, place, number)

    def clear(self, topic_id: str, partition: int, offset: int) -> None:
        """Forget the attempts at a record that was processed, or rejected."""
        with map_redis_errors():
            self._client.hdel(self._attempts, f"{topic_id}:{partition}:{offset}")
