"""Batches as the fetcher hands them over: within bounds, in every codec, whole or named."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition

from streams.contract.records import PASSED_OVER, SWOLLEN
from streams.kafka import decompression
from streams.workers import fetched_batches
from streams.workers.fetched_batches import unreadable

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gzip": gzip_encode,
    "snappy": snappy_encode,
    "lz4": lz4_encode,
    "zstd": zstd_encode,
}
compressing = pytest.mark.parametrize("codec", [name for name in CODECS if name != "none"])
TP = TopicPartition("topic", 3)


@pytest.fixture(autouse=True)
def _bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompression, "MAX_DECOMPRESSED_BYTES", 10_000)
    unreadable.clear()


def batch(
    values: list[bytes], codec: str = "none", first: int = 0, key: bytes = b"key"
) -> bytearray:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=CODECS[codec],
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    for offset, value in enumerate(values):
        builder.append(offset, 5, key, value, [("name", b"text")])
    built = bytearray(builder.build())
    struct.pack_into(">q", built, 0, first)
    return built


def seal(raw: bytearray) -> None:
    """Give a batch that was changed the length and the checksum that belong to it."""
    struct.pack_into(">i", raw, 8, len(raw) - 12)
    struct.pack_into(">I", raw, 17, calc_crc32c(raw[21:]))


def read(*batches: bytearray) -> list[Any]:
    records = fetched_batches._Records(bytes(b"".join(batches)))
    return [*fetched_batches._PartitionRecords(TP, records, [], 0, None, None, True, 1)]


def fetched(*batches: bytearray) -> list[tuple[int, bytes | None, str]]:
    """Offset, value and first header of what comes of batches."""
    return [(r.offset, r.value, r.headers[0][0]) for r in read(*batches)]


@compressing
def test_every_codec_is_read(codec: str) -> None:
    assert fetched(batch([b"one", b"two"], codec)) == [(0, b"one", "name"), (1, b"two", "name")]


@compressing
def test_a_batch_may_become_as_large_as_the_bound_and_no_larger(codec: str) -> None:
    assert fetched(batch([bytes(9_900)], codec)) == [(0, bytes(9_900), "name")]
    swollen = batch([b"x", bytes(10_000)], codec)
    assert fetched(swollen) == [(0, None, SWOLLEN), (1, None, SWOLLEN)]
    assert [record.timestamp for record in read(swollen)] == [5, 5]


@compressing
def test_what_stands_behind_a_swollen_batch_is_read(codec: str) -> None:
    found = fetched(batch([bytes(10_001)], codec), batch([b"next"], codec, first=1))
    assert found == [(0, None, SWOLLEN), (1, b"next", "name")]


@compressing
def test_a_broken_batch_ends_what_is_read_and_is_named(codec: str) -> None:
    broken = batch([b"y" * 5_000], codec, first=1)
    broken[61:] = bytes(len(broken) - 61)
    seal(broken)
    found = fetched(batch([b"good"]), broken, batch([b"behind"], first=2))
    assert found == [(0, b"good", "name")]
    assert "the batch at offset 1 cannot be read" in unreadable[TP]


def test_a_checksum_that_is_wrong_is_named() -> None:
    broken = batch([b"value"])
    broken[-1] ^= 0xFF
    assert fetched(broken) == []
    assert "CorruptRecordException" in unreadable[TP]


def test_a_codec_of_tomorrow_is_named() -> None:
    unknown = batch([b"value"])
    struct.pack_into(">h", unknown, 21, 7)
    seal(unknown)
    assert fetched(unknown) == []
    assert "UnsupportedCodecError" in unreadable[TP]


def test_what_can_be_read_again_is_named_no_more() -> None:
    broken = batch([b"value"])
    broken[-1] ^= 0xFF
    fetched(broken)
    assert fetched(batch([b"value"])) == [(0, b"value", "name")]
    assert unreadable == {}


@pytest.mark.parametrize("codec", CODECS)
def test_a_header_name_that_is_not_utf_8_is_handed_over(codec: str) -> None:
    raw = batch([b"value"])
    raw[raw.index(b"name")] = 0xFF
    packed = ENCODERS[codec](bytes(raw[61:]))
    raw = raw[:61] + packed
    struct.pack_into(">h", raw, 21, CODECS[codec])
    seal(raw)
    assert fetched(raw) == [(0, b"value", "\\xffame")]


def marker_of_a_transaction(*, appended: int = 5) -> bytearray:
    marker = batch([b"\0\0\0\0\0\0"], first=1, key=b"\0\0\0\1")
    struct.pack_into(">h", marker, 21, 0x30)  # transactional, control
    struct.pack_into(">q", marker, 35, appended)
    seal(marker)
    return marker


@pytest.mark.parametrize("appended", [4, 9])
def test_what_stands_for_the_passed_over_is_as_young_as_the_youngest_batch(appended: int) -> None:
    *_, last = read(batch([b"value"]), marker_of_a_transaction(appended=appended))
    assert (last.offset, last.timestamp) == (1, max(5, appended))


def test_the_offset_behind_the_last_record_is_told_when_it_is_passed_over() -> None:
    marker = marker_of_a_transaction()
    assert fetched(batch([b"value"]), marker) == [(0, b"value", "name"), (1, None, PASSED_OVER)]
    assert fetched(batch([b"value"]), marker, batch([b"next"], first=2)) == [
        (0, b"value", "name"),
        (2, b"next", "name"),
    ]


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy"])
@pytest.mark.parametrize("version", [0, 1])
def test_batches_of_the_old_versions_are_read(version: int, codec: str) -> None:
    builder = LegacyRecordBatchBuilder(version, CODECS[codec], 1 << 16)
    builder.append(0, 5, b"key", b"value")
    records = fetched_batches._Records(bytes(builder.build()))
    partition = fetched_batches._PartitionRecords(TP, records, [], 0, None, None, True, 1)
    assert [(r.offset, r.value) for r in partition] == [(0, b"value")]
