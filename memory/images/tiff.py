"""TIFF: deep greys that Pillow knows in one order of bytes or with one meaning of zero only."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image, TiffImagePlugin
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    II,
    IMAGELENGTH,
    IMAGEWIDTH,
    MM,
    OPEN_INFO,
    PHOTOMETRIC_INTERPRETATION,
    SAMPLEFORMAT,
)

WHITE_IS_ZERO, BLACK_IS_ZERO = 0, 1
UNSIGNED = 1
SIGNATURES = (b"II*\0", b"MM\0*")


def register_deep_greys() -> None:
    """Let Pillow open what it unpacks anyway; `zero_is_white` and `has_no_sign` tell the rest."""
    for order in (II, MM):
        for zero in (WHITE_IS_ZERO, BLACK_IS_ZERO):
            wide = ("I;16", "I;16") if order == II else ("I;16B", "I;16B")
            long = ("I", "I;32N") if order == II else ("I", "I;32BS")
            for bits, modes in ((12, ("I;16", "I;12")), (16, wide), (32, long)):
                OPEN_INFO.setdefault((order, zero, (UNSIGNED,), 1, (bits,), ()), modes)


def zero_is_white(image: Image.Image) -> bool:
    """Whether zero is white in what was decoded; of 8 bits and less Pillow turns it round."""
    return bool(_tag(image, PHOTOMETRIC_INTERPRETATION, BLACK_IS_ZERO) == WHITE_IS_ZERO)


def has_no_sign(image: Image.Image) -> bool:
    """Whether integers of 32 bits, which Pillow takes for signed, are not."""
    return image.format == "TIFF" and _tag(image, SAMPLEFORMAT, (UNSIGNED,)) == (UNSIGNED,)


def sample_bits(image: Image.Image) -> int:
    """How many bits a 16-bit grey uses."""
    bits: int = _tag(image, BITSPERSAMPLE, (16,))[0]
    return bits


def _tag(image: Image.Image, tag: int, otherwise: Any) -> Any:
    tags = getattr(image, "tag_v2", None)
    return otherwise if tags is None else tags.get(tag, otherwise)


def unsupported_kind(data: bytes) -> str | None:
    """What a TIFF is that Pillow cannot open though its header can be read; else None."""
    if not data.startswith(SIGNATURES):
        return None
    file = io.BytesIO(data)
    try:
        directory = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        file.seek(directory.next)
        directory.load(file)
        width, height, bits = (directory[tag] for tag in (IMAGEWIDTH, IMAGELENGTH, BITSPERSAMPLE))
    except Exception:  # noqa: BLE001 - Pillow's parsers raise nearly anything
        return None
    return (
        f"a TIFF of {len(bits)} samples of {max(bits)} bits a pixel" if width and height else None
    )
