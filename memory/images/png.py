"""PNG: the chunks that make its first picture and say how it stands."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"})
GREY, RGB = 0, 2
"""Colour types."""
EXIF = b"Raw profile type exif"
ORIENTING = {
    EXIF: EXIF,
    b"Raw profile type APP1": EXIF,
    b"XML:com.adobe.xmp": b"XML:com.adobe.xmp",
}
"""Keywords of texts that may hold an orientation, and under which Pillow looks for it.

ImageMagick writes the first two, macOS the third.
"""
MAX_TEXT = 1 << 16
"""Bytes of such a text, unpacked; the profile of a camera has a few thousand."""


def is_png(data: bytes) -> bool:
    return data.startswith(SIGNATURE)


def without_metadata(data: bytes) -> bytes:
    """A PNG's chunks that make its first picture, and one text of each kind that may orient it.

    Text and profiles are compressed and may swell a thousandfold, and one chunk too large makes
    Pillow refuse the whole image; animation chunks only matter from the second frame on.
    """
    kept = [SIGNATURE]
    texts: dict[bytes, bytes] = {}
    for kind, chunk in _chunks(data):
        if kind in PIXEL_CHUNKS:
            kept.append(chunk)
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, _, rest = chunk[8:-4].partition(b"\0")
            name = ORIENTING.get(keyword)
            # The first of a kind alone: thousands may be there, each of which has to be unpacked.
            if name is not None and name not in texts:
                text = _unpacked(kind, rest)
                texts[name] = _as_chunk(kind, name, text) if text else b""
    # Pillow reads what stands before the pixels when it opens the image.
    return b"".join([*kept[:2], *texts.values(), *kept[2:]])


def scale_transparency(image: Image.Image, data: bytes) -> None:
    """Give the transparent colour the depth that Pillow gave the pixels.

    Of 16-bit colour Pillow keeps the high bytes, so what differs in the low ones is transparent
    too.
    """
    key = image.info.get("transparency")
    depth, colour = data[len(SIGNATURE) + 16 : len(SIGNATURE) + 18]
    if colour == GREY and depth < 8 and isinstance(key, int):
        image.info["transparency"] = key * (255 // ((1 << depth) - 1))
    elif colour == RGB and depth == 16 and isinstance(key, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        yield kind, data[at:end]
        at = end


def _unpacked(kind: bytes, rest: bytes) -> bytes:
    """What a text says, from what follows its keyword: nothing where it is too long or broken."""
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed = rest[:1] == b"\1"
        _, _, rest = rest[2:].partition(b"\0")  # the language
        _, _, rest = rest.partition(b"\0")  # the keyword in it
    elif packed:
        rest = rest[1:]
    if packed:
        unpacking = zlib.decompressobj()
        try:
            rest = unpacking.decompress(rest, MAX_TEXT + 1)
        except zlib.error:
            return b""
    return rest if len(rest) <= MAX_TEXT else b""


def _as_chunk(kind: bytes, keyword: bytes, text: bytes) -> bytes:
    international = kind == b"iTXt"
    kind = kind if international else b"tEXt"
    body = keyword + (b"\0\0\0\0\0" if international else b"\0") + text
    checksum = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)
