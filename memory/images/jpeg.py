"""JPEG: a file that lacks only its end."""

from __future__ import annotations

import hashlib
import io
import re

from PIL import Image

END = b"\xff\xd9"
STUFFING = b"\x55\xaa" * 64
"""What a decoder that still wants pixels takes for some, and one that has all passes over."""

SEGMENT = re.compile(rb"\xff([\xc0-\xcf\xda-\xfe])")
"""The start of a segment; in the data of a scan 0xff is followed by zero or by a restart."""
PROGRESSIVE_FRAME, SCAN = b"\xc2", b"\xda"
COEFFICIENTS = 64


def lacks_end(data: bytes) -> bool:
    """Whether this is a JPEG without the marker at its end."""
    return data.startswith(b"\xff\xd8\xff") and END not in data[-64:]


def with_end(data: bytes) -> bytes:
    """The file with its end, if all pixels are there; else as it is, so that it is refused.

    libjpeg makes up what is missing before an end, and Pillow does not hear of it. But with other
    bytes in front of the end it makes up something else, unless nothing is missing. Of a
    progressive file whole scans may be missing as well.
    """
    pixels = data.removesuffix(END[:1])
    whole = pixels + END
    if _is_progressive(whole) and not _has_all_scans(whole):
        return data
    digests = {_digest(each) for each in (whole, pixels + STUFFING + END)}
    return whole if len(digests) == 1 else data


def _digest(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data), formats=["JPEG", "MPO"]) as image:
        return hashlib.sha256(image.tobytes()).digest()


def _is_progressive(data: bytes) -> bool:
    with Image.open(io.BytesIO(data), formats=["JPEG", "MPO"]) as image:
        return bool(image.info.get("progressive"))


def _has_all_scans(data: bytes) -> bool:
    """Whether the scans bring every coefficient of every component down to its last bit.

    ITU-T T.81, B.2.3: a scan names its components, a range of coefficients, and how many low bits
    it leaves to later scans.
    """
    bits_left: dict[int, bytearray] = {}
    position = 0
    while found := SEGMENT.search(data, position):
        marker, start = found[1], found.end()
        position = start + max(2, int.from_bytes(data[start : start + 2]))
        segment = data[start + 2 : position]
        if marker == PROGRESSIVE_FRAME:
            bits_left = {each: bytearray(b"\xff" * COEFFICIENTS) for each in segment[6::3]}
        elif marker == SCAN and segment and len(segment) == 4 + 2 * segment[0]:
            first, last, approximation = segment[-3:]
            for component in bits_left.keys() & set(segment[1:-3:2]):
                named = len(range(COEFFICIENTS)[first : last + 1])
                bits_left[component][first : last + 1] = bytes([approximation & 0x0F]) * named
    return bool(bits_left) and not any(map(any, bits_left.values()))
