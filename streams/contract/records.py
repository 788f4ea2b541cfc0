"""Records as the log holds them and as they are sent."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from streams.contract.topics import Topic

SOURCE = "visual-memory"
"""The ce_source of what the memory itself says."""
JSON = "application/json"
OCTETS = "application/octet-stream"
VECTOR = "application/vnd.visual-memory.vector"
"""Content type of little-endian float32 elements."""
CLAIM = "application/vnd.visual-memory.claim+json"
"""Content type of an image's address and SHA-256 in its place."""
PASSED_OVER = "\udcffpassed-over"
"""Header of a record that stands for what readers pass over: transactions' markers, aborted records.

No record of the log can have such a name, which is not UTF-8.
"""
SWOLLEN = "\udcffswollen"
"""Header of a record whose batch is larger than it may be, once decompressed."""
HEARTBEAT = "visual-memory.heartbeat.v1"
HEARTBEAT_ID = "heartbeat"


def record_key(source: str, event_id: str) -> bytes:
    """The key of an event's record: hex SHA-256 of (source, NUL, id), ASCII.

    Unique to the event, so that compaction removes exact repeats only and a tombstone removes
    exactly one event.
    """
    return hashlib.sha256(f"{source}\0{event_id}".encode()).hexdigest().encode()


Headers = Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Record:
    """A record as the log holds it. `timestamp` is its LogAppendTime, µs."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int

    @classmethod
    def of(cls, record: Any) -> Self:
        """From a ConsumerRecord of kafka-python, whose time is in ms."""
        return cls(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            key=record.key,
            value=record.value,
            headers=tuple(record.headers or ()),
            timestamp=record.timestamp * 1000,
        )


@dataclass(frozen=True, slots=True)
class OutgoingRecord:
    """A record to be sent; without a partition the key chooses one."""

    topic: Topic
    key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    partition: int | None = None

    @property
    def size(self) -> int:
        """Bytes of key, value and headers."""
        headers = sum(len(name.encode()) + len(value) for name, value in self.headers)
        return len(self.key) + len(self.value or b"") + headers


class Marker(StrEnum):
    """A record that is no event, and no fault either."""

    TOMBSTONE = "tombstone"
    HEARTBEAT = "heartbeat"
    GAP = "gap"
