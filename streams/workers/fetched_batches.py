"""What aiokafka's fetcher makes of a batch of the log, put right where it would stop a role.

By itself it ends the worker, and at the same batch after every start, for a header name that is
not UTF-8, for a codec that it lacks and for a batch that is broken; it lets a batch become as large
as memory allows; and it passes over transactions' markers and aborted records without a word, so
that positions that rest on records alone stay behind the log's end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy
from aiokafka.structs import ConsumerRecord, TopicPartition

from streams.contract.records import PASSED_OVER, SWOLLEN
from streams.kafka.decompression import VERSION, SwollenBatch, decompress
from streams.kafka.lenient_batches import LenientBuffer
from streams.workers.metrics import UNREADABLE

_log = logging.getLogger(__name__)

RETRY_SECONDS = 10.0
"""After this long a batch that could not be read is fetched again: the network may have broken it."""

unreadable: dict[TopicPartition, str] = {}
"""The partitions that this process holds up, and why: the offset and the kind of fault."""


class _Substitute:
    """Stands in the batch for a record that is not read. `header` tells why."""

    key = value = checksum = None
    timestamp_type = 0

    def __init__(self, offset: int, header: str, timestamp: int) -> None:
        self.offset = offset
        self.timestamp = timestamp
        self.headers = ((header, b""),)


class _Batch:
    """A batch that is decompressed within bounds, and whatever its header names hold."""

    def __init__(self, batch: Any, raw: memoryview) -> None:
        self._batch = batch
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        try:
            raw = decompress(self._raw)
        except SwollenBatch:
            offsets = range(self._batch.base_offset, self._batch.next_offset)
            appended = self._batch.max_timestamp
            yield from (_Substitute(offset, SWOLLEN, appended) for offset in offsets)
            return
        try:
            yield from self._batch if raw is self._raw else DefaultRecordBatch(raw)
        except UnicodeDecodeError:
            # From the batch's start: the fetcher passes over offsets that it has seen.
            lenient: Any = _DefaultRecordBatchPy(raw)
            lenient._buffer = LenientBuffer(raw)  # noqa: SLF001 - where it reads headers from
            yield from lenient


class _Records(_MemoryRecordsPy):  # type: ignore[misc]  # final to type checkers only
    """Batches of a fetch; the batches themselves are still parsed by aiokafka's fast parser."""

    youngest = 0
    """When the last of them was appended, ms: also of those without a record to read."""

    def next_batch(self, *arguments: Any) -> Any:
        raw = self._next_slice
        batch = super().next_batch(*arguments)
        if batch is None:
            return None
        if raw[VERSION] >= 2:
            self.youngest = max(self.youngest, batch.max_timestamp)
        return _Batch(batch, raw)


class _PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka is untyped
    """The records of a partition, without a gap behind the last, up to one that cannot be read."""

    held = False

    def _unpack_records(self) -> Iterator[ConsumerRecord[Any, Any]]:
        reached = self.next_fetch_offset
        try:
            for record in super()._unpack_records():
                if unreadable.pop(self._tp, None):
                    self._count()
                reached = record.offset + 1
                yield record
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this batch's
            self._hold(type(error).__name__)
        if self.next_fetch_offset > reached:
            last = _Substitute(self.next_fetch_offset - 1, PASSED_OVER, self._records.youngest)
            yield self._consumer_record(self._tp, last)

    def _hold(self, fault: str) -> None:
        self.held = True
        why = f"the batch at offset {self.next_fetch_offset} cannot be read ({fault})"
        if unreadable.get(self._tp) != why:
            _log.error("%s[%s]: %s; the partition waits", self._tp.topic, self._tp.partition, why)
        unreadable[self._tp] = why
        self._count()

    def _count(self) -> None:
        held = [tp for tp in list(unreadable) if tp.topic == self._tp.topic]
        UNREADABLE.labels(self._tp.topic).set(len(held))


class _FetchResult(fetcher.FetchResult):  # type: ignore[misc]  # as above
    """Lets a partition that is held up rest for a while before it is fetched again."""

    def _update_position(self) -> None:
        super()._update_position()
        if self._partition_records.held:
            state = self._assignment.state_value(self._topic_partition)
            state.pause()
            asyncio.get_running_loop().call_later(RETRY_SECONDS, state.resume)


def patch_aiokafka() -> None:
    """Let this process's aiokafka consumers read so."""
    fetcher.MemoryRecords = _Records
    fetcher.PartitionRecords = _PartitionRecords
    fetcher.FetchResult = _FetchResult


def held_partitions() -> list[str]:
    """The partitions that this process holds up, and why."""
    return [f"{tp.topic}[{tp.partition}]: {why}" for tp, why in sorted(unreadable.items())]
