"""Records whose header names are not UTF-8: read all the same, so that they can be rejected.

aiokafka fails on such a record before any of our code sees it, and at the same record after
every restart: one producer could stop a role for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy


class _Text(bytes):
    """Bytes that decode whatever they hold."""

    def decode(self, *_: Any, **__: Any) -> str:
        return super().decode("utf-8", "backslashreplace")


class _Buffer(bytearray):
    """What aiokafka's parser in Python reads headers from."""

    def __getitem__(self, key: Any) -> Any:
        found: Any = super().__getitem__(key)
        return _Text(found) if isinstance(key, slice) else found


class _Batch:
    """A batch that is read anew, leniently, when the strict parser fails."""

    def __init__(self, batch: Any, raw: memoryview) -> None:
        self._batch = batch
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._batch
        except UnicodeDecodeError:
            # From the batch's start: the fetcher passes over offsets that it has seen.
            lenient: Any = _DefaultRecordBatchPy(self._raw)
            lenient._maybe_uncompress()  # noqa: SLF001 - its buffer is decided there
            lenient._buffer = _Buffer(lenient._buffer)  # noqa: SLF001 - as above
            yield from lenient


class _Records(_MemoryRecordsPy):  # type: ignore[misc]  # final to type checkers only
    """Batches of a fetch; the batches themselves are still parsed by aiokafka's fast parser."""

    def next_batch(self, *arguments: Any) -> Any:
        raw = self._next_slice
        batch = super().next_batch(*arguments)
        return None if batch is None else _Batch(batch, raw)


def patch_aiokafka_headers() -> None:
    """Let this process's aiokafka consumers read such records."""
    fetcher.MemoryRecords = _Records
