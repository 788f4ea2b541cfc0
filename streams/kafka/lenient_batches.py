"""What kafka-python's consumers make of a batch of the log: the same as the workers' readers.

By itself it lets a batch become as large as memory allows, and ends at a header name that is not
UTF-8, so that a rebuild would not be the memory that the workers have, or none at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kafka import KafkaConsumer
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch

from streams.contract.records import SWOLLEN
from streams.kafka.decompression import SwollenBatch, decompress


class Text(bytes):
    """Bytes that decode whatever they hold."""

    def decode(self, *_: Any, **__: Any) -> str:
        return super().decode("utf-8", "backslashreplace")


class LenientBuffer(bytearray):
    """What parsers read header names from, whatever bytes these hold."""

    def __getitem__(self, key: Any) -> Any:
        found: Any = super().__getitem__(key)
        return Text(found) if isinstance(key, slice) else found


class _Name(str):
    """A header's name that no record of the log can have; kafka-python counts its bytes."""

    __slots__ = ()

    def encode(self, *_: Any, **__: Any) -> bytes:
        return super().encode("utf-8", "surrogateescape")


class _Batch:
    """A batch that is decompressed within bounds, and whatever its header names hold."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        raw = self._batch._buffer  # noqa: SLF001 - the batch as it came
        try:
            whole = decompress(raw)
        except SwollenBatch:
            appended, kind = self._batch.max_timestamp, self._batch.timestamp_type
            headers = [(_Name(SWOLLEN), b"")]
            for offset in range(self._batch.base_offset, self._batch.next_offset):
                yield DefaultRecord(0, offset, appended, kind, None, None, headers)
            return
        batch = DefaultRecordBatch(whole)
        reached = -1
        try:
            for record in batch:
                yield record
                reached = record.offset
        except CorruptRecordError as error:
            if not isinstance(error.__context__, UnicodeDecodeError):
                raise
            batch = DefaultRecordBatch(whole)
            batch._buffer = LenientBuffer(whole)  # noqa: SLF001 - where it reads headers from
            yield from (record for record in batch if record.offset > reached)


class _Batches:
    """Batches of a fetch."""

    def __init__(self, records: Any) -> None:
        self._records = records

    def next_batch(self) -> Any:
        batch = self._records.next_batch()
        return _Batch(batch) if isinstance(batch, DefaultRecordBatch) else batch


class _PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]  # kafka-python is untyped
    """The records of a partition, of batches that are read so."""

    def __init__(self, fetch_offset: int, tp: Any, records: Any, **settings: Any) -> None:
        super().__init__(fetch_offset, tp, _Batches(records), **settings)


def read_leniently(consumer: KafkaConsumer) -> None:
    """Let this consumer, and no other of the process, read so."""
    consumer._fetcher.PartitionRecords = _PartitionRecords  # noqa: SLF001 - it has no setting for it
