"""JPEG: a file that lacks only its end."""

from __future__ import annotations

import hashlib
import io

from PIL import Image

END = b"\xff\xd9"
STUFFING = b"\x55\xaa" * 64
"""What a decoder that still wants pixels takes for some, and one that has all passes over."""


def lacks_end(data: bytes) -> bool:
    """Whether this is a JPEG without the marker at its end."""
    return data.startswith(b"\xff\xd8\xff") and END not in data[-64:]


def with_end(data: bytes) -> bytes:
    """The file with its end, if all pixels are there; else as it is, so that it is refused.

    libjpeg makes up what is missing before an end, and Pillow does not hear of it. But with other
    bytes in front of the end it makes up something else, unless nothing is missing. Of a
    progressive file whole scans may be missing as well, which nothing tells.
    """
    pixels = data.removesuffix(END[:1])
    whole = pixels + END
    digests = {_digest(each) for each in (whole, pixels + STUFFING + END)}
    return whole if len(digests) == 1 and None not in digests else data


def _digest(data: bytes) -> bytes | None:
    """Of the pixels, None of a progressive file."""
    with Image.open(io.BytesIO(data), formats=["JPEG", "MPO"]) as image:
        if image.info.get("progressive"):
            return None
        return hashlib.sha256(image.tobytes()).digest()
