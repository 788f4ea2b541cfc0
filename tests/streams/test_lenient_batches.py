"""What kafka-python's consumers make of batches: what the workers' readers make of them."""

from __future__ import annotations

import struct

import pytest
from kafka import IsolationLevel, TopicPartition
from kafka.errors import CorruptRecordError, UnsupportedCodecError
from kafka.record import MemoryRecords

from streams.contract.records import SWOLLEN
from streams.kafka import decompression, lenient_batches
from tests.streams.test_fetched_batches import CODECS, ENCODERS, batch, compressing, seal

TP = TopicPartition("topic", 3)


@pytest.fixture(autouse=True)
def _bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompression, "MAX_DECOMPRESSED_BYTES", 10_000)


def fetched(*batches: bytearray, start: int = 0) -> list[tuple[int, bytes | None, str]]:
    """Offset, value and first header of what comes of batches."""
    partition = lenient_batches._PartitionRecords(
        start, TP, MemoryRecords(b"".join(batches)), isolation_level=IsolationLevel.READ_COMMITTED
    )
    found = list(partition.take())
    while partition:
        found += partition.take()
    return [(r.offset, r.value, r.headers[0][0]) for r in found]


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_is_read(codec: str) -> None:
    two = batch([b"one", b"two"], codec)
    assert fetched(two) == [(0, b"one", "name"), (1, b"two", "name")]
    assert fetched(two, start=1) == [(1, b"two", "name")]


@compressing
def test_a_batch_may_become_as_large_as_the_bound_and_no_larger(codec: str) -> None:
    assert fetched(batch([bytes(9_900)], codec)) == [(0, bytes(9_900), "name")]
    swollen = batch([b"x", bytes(10_000)], codec)
    behind = batch([b"next"], codec, first=2)
    both = [(0, None, SWOLLEN), (1, None, SWOLLEN)]
    assert fetched(swollen, behind) == [*both, (2, b"next", "name")]


@pytest.mark.parametrize("codec", CODECS)
def test_a_header_name_that_is_not_utf_8_is_handed_over_once(codec: str) -> None:
    raw = batch([b"before", b"value", b"after"])
    raw[raw.index(b"name", raw.index(b"value"))] = 0xFF
    raw = raw[:61] + ENCODERS[codec](bytes(raw[61:]))
    struct.pack_into(">h", raw, 21, CODECS[codec])
    seal(raw)
    assert fetched(raw) == [
        (0, b"before", "name"),
        (1, b"value", "\\xffame"),
        (2, b"after", "name"),
    ]


@compressing
def test_a_broken_batch_is_an_error_of_kafka(codec: str) -> None:
    broken = batch([b"y" * 5_000], codec)
    broken[61:] = bytes(len(broken) - 61)
    seal(broken)
    with pytest.raises(CorruptRecordError):
        fetched(broken)


def test_a_codec_of_tomorrow_is_an_error_of_kafka() -> None:
    unknown = batch([b"value"])
    struct.pack_into(">h", unknown, 21, 7)
    seal(unknown)
    with pytest.raises(UnsupportedCodecError):
        fetched(unknown)


def test_markers_of_transactions_are_passed_over() -> None:
    marker = batch([b"\0\0\0\0\0\0"], first=1, key=b"\0\0\0\1")
    struct.pack_into(">h", marker, 21, 0x30)  # transactional, control
    seal(marker)
    found = fetched(batch([b"value"]), marker, batch([b"next"], first=2))
    assert found == [(0, b"value", "name"), (2, b"next", "name")]
