"""A batch of the log decompressed within a bound, in every codec."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from typing import TypeVar

import cramjam
from kafka.errors import CorruptRecordError, UnsupportedCodecError

_Raw = TypeVar("_Raw", bytes, bytearray, memoryview)

MAX_DECOMPRESSED_BYTES = 32 << 20
"""What a compressed batch may become: brokers bound it only as it is sent, and 0.4 MB of gzip can
become 400 MB.
"""
HEADER = struct.Struct(">qiibIhiqqqhii")
"""Of a batch of version 2; the attributes' last three bits name the codec."""
VERSION, ATTRIBUTES, CODEC_BITS = 16, slice(21, 23), 0x07


class SwollenBatch(Exception):
    """The batch would become larger than it may."""


def _into(codec: Callable[[bytes, bytearray], int]) -> Callable[[bytes], bytearray]:
    def decompress_within(data: bytes) -> bytearray:
        # Untouched pages of it cost nothing.
        buffer = bytearray(MAX_DECOMPRESSED_BYTES)
        try:
            size = codec(data, buffer)
        except cramjam.DecompressionError as error:
            if "failed to write whole buffer" in str(error):
                raise SwollenBatch from None
            raise
        return buffer[:size]

    return decompress_within


def _snappy(data: bytes) -> bytearray:
    """Snappy as Java writes it, in blocks behind a header of 16 bytes, or bare."""
    blocks = [data]
    if data.startswith(b"\x82SNAPPY\0"):
        stream, blocks = io.BytesIO(data[16:]), []
        while length := stream.read(4):
            blocks.append(stream.read(int.from_bytes(length)))
    if sum(map(cramjam.snappy.decompress_raw_len, blocks)) > MAX_DECOMPRESSED_BYTES:
        raise SwollenBatch
    return bytearray(b"".join(bytes(cramjam.snappy.decompress_raw(block)) for block in blocks))


CODECS: Mapping[int, Callable[[bytes], bytearray]] = {
    1: _into(cramjam.gzip.decompress_into),
    2: _snappy,
    3: _into(cramjam.lz4.decompress_into),
    4: _into(cramjam.zstd.decompress_into),
}


def decompress(raw: _Raw) -> _Raw | bytearray:
    """The batch as if its producer had not compressed it; itself where that is so.

    Raises `SwollenBatch`, kafka-python's CorruptRecordError and UnsupportedCodecError.
    """
    if raw[VERSION] < 2:
        return raw
    attributes = int.from_bytes(raw[ATTRIBUTES])
    if not attributes & CODEC_BITS:
        return raw
    codec = CODECS.get(attributes & CODEC_BITS)
    if codec is None:
        raise UnsupportedCodecError(f"codec {attributes & CODEC_BITS}")
    header = bytearray(raw[: HEADER.size])
    header[ATTRIBUTES] = (attributes & ~CODEC_BITS).to_bytes(2)
    try:
        return header + codec(bytes(raw[HEADER.size :]))
    except cramjam.DecompressionError:
        raise CorruptRecordError("a batch cannot be decompressed") from None
