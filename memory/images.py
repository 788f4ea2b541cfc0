"""Decode images from strangers, within limits that are checked before pixels are.

What can hurt is refused or left unread: headers that promise more pixels than the limit,
progressive JPEGs of thousands of scans, compressed text and colour profiles. Metadata other than
the orientation never reaches the memory.
"""

from __future__ import annotations

import ctypes
import io
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil, inf
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from memory.errors import Misconfigured, Reason, Rejected

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
)
"""What files of these formats are called."""

MAX_PIXELS = 178_956_970
"""Beyond twice Pillow's MAX_IMAGE_PIXELS it refuses by itself, whatever our limit says."""

DRAFT_PIXELS = 4_000_000
DRAFT_SIDE = 1024
"""A JPEG beyond so many pixels is decoded at a fraction of its size, to sides of at least this:
four times what models look at."""

STRIP_PIXELS = 1 << 20
"""What is made of large images by way of wider numbers is made strip by strip."""

MAX_SCANS = 32
"""Scans of a progressive JPEG over the largest image allowed; encoders write about ten."""

PNG = b"\x89PNG\r\n\x1a\n"
MAGIC = (PNG, b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"})

ORIENTATION = 0x0112
TRANSPOSE_BY_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# warnings.catch_warnings swaps a list of the whole process: two threads inside it at once can
# leave the wrong one behind.
_warnings_held = threading.Lock()


Scale = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""From an image's own numbers to 0 to 255."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The largest encoded image, in bytes, and the largest decoded one, in pixels."""

    max_bytes: int = 1 << 20
    max_pixels: int = 50_000_000

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise Misconfigured(f"max_bytes must be at least 1, not {self.max_bytes}")
        if not 1 <= self.max_pixels <= MAX_PIXELS:
            raise Misconfigured(f"max_pixels must be 1 to {MAX_PIXELS}, not {self.max_pixels}")


def decode(data: bytes, limits: ImageLimits) -> Image.Image:
    """The image as RGB, upright, on white where it is transparent; the first frame of many.

    16 bits are scaled to 8. Raises `Rejected`: EMPTY_PAYLOAD; NOT_AN_IMAGE when it is none of
    `FORMATS`; IMAGE_TOO_LARGE beyond the limits; TRUNCATED_IMAGE when it is cut short or broken.
    Safe to call from many threads, which take turns.
    """
    if not data:
        raise Rejected(Reason.EMPTY_PAYLOAD, "the image has no bytes")
    if len(data) > limits.max_bytes:
        raise _too_large(f"the image has {len(data)} bytes; at most {limits.max_bytes} are allowed")
    with _warnings_held, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _decoded(data, limits)
        except Rejected:
            raise
        except Image.DecompressionBombError:
            raise _too_many_pixels(limits) from None
        except UnidentifiedImageError:
            if _looks_like_an_image(data):
                raise _broken("no readable header") from None
            raise Rejected(
                Reason.NOT_AN_IMAGE, f"the payload is none of {', '.join(FORMATS)}"
            ) from None
        except MemoryError:
            raise _too_large("the image takes more memory than there is; scale it down") from None
        except Exception as error:  # noqa: BLE001 - Pillow's parsers raise nearly anything
            raise _broken(type(error).__name__) from None


def _decoded(data: bytes, limits: ImageLimits) -> Image.Image:
    if _webp_canvas(data) > limits.max_pixels:
        raise _too_many_pixels(limits)
    with Image.open(io.BytesIO(_png_without_metadata(data)), formats=FORMATS) as image:
        pixels = image.width * image.height
        if pixels > limits.max_pixels:
            raise _too_many_pixels(limits)
        # Each scan is a pass over all pixels and may take a few bytes only. A thumbnail inside
        # the metadata has scans too: the count may be a little high, never low.
        scans = data.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 0
        if scans * pixels > MAX_SCANS * limits.max_pixels:
            raise _too_large(f"the image has {scans} scans; save it as a baseline JPEG")
        if pixels > DRAFT_PIXELS and min(image.size) > DRAFT_SIDE:
            shrunk = DRAFT_SIDE / min(image.size)
            image.draft(None, (ceil(image.width * shrunk), ceil(image.height * shrunk)))
        image.load()
        turn = TRANSPOSE_BY_ORIENTATION.get(_orientation(image))
        rgb = _rgb(image)
    return rgb if turn is None else rgb.transpose(turn)


def _too_large(detail: str) -> Rejected:
    return Rejected(Reason.IMAGE_TOO_LARGE, detail)


def _too_many_pixels(limits: ImageLimits) -> Rejected:
    return _too_large(f"the image has more than {limits.max_pixels} pixels; scale it down")


def _broken(what: str) -> Rejected:
    return Rejected(Reason.TRUNCATED_IMAGE, f"the image is broken or cut short ({what})")


def _looks_like_an_image(data: bytes) -> bool:
    """Whether a payload that cannot be opened began as an image; BMP's two letters are too few."""
    return data.startswith(MAGIC) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def _webp_canvas(data: bytes) -> int:
    """Pixels of a WebP's canvas, 0 if it is none: its decoder allocates them when it opens."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return 0
    if data[12:16] == b"VP8X":
        width, height = int.from_bytes(data[24:27], "little"), int.from_bytes(data[27:30], "little")
        return (width + 1) * (height + 1)
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return ((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1)
    width, height = int.from_bytes(data[26:28], "little"), int.from_bytes(data[28:30], "little")
    return (width & 0x3FFF) * (height & 0x3FFF)


def _png_without_metadata(data: bytes) -> bytes:
    """A PNG's chunks that make its first picture; anything else unchanged.

    Text and profiles are compressed and may swell a thousandfold, and one chunk too large makes
    Pillow refuse the whole image; animation chunks only matter from the second frame on.
    """
    if not data.startswith(PNG):
        return data
    kept, at = [PNG], len(PNG)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if kind in PIXEL_CHUNKS:
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where the metadata cannot be read."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - broken metadata spoils no pixels
        return 1
    return found if isinstance(found, int) else 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _grey(image, _from_16_bits)
    if image.mode == "F":
        return _grey(image, _stretch_of(image))
    if image.has_transparency_data or image.mode == "PA":
        return _on_white(image)
    return image.convert("RGB")


def _strips(image: Image.Image) -> Iterator[Image.Image]:
    """The image from top to bottom, about `STRIP_PIXELS` at a time."""
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def _on_white(image: Image.Image) -> Image.Image:
    rgb, top = Image.new("RGB", image.size), 0
    for strip in _strips(image):
        rgba = strip.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        rgb.paste(Image.alpha_composite(white, rgba).convert("RGB"), (0, top))
        top += strip.height
    return rgb


def _from_16_bits(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The high byte, as Pillow takes of 16-bit colour. 32-bit integers count as 16-bit ones."""
    return (values.clip(0, 65535) if values.dtype.itemsize > 2 else values) >> 8


def _stretch_of(image: Image.Image) -> Scale:
    """Stretched from the least to the greatest finite value: floats have no agreed range."""
    least, greatest = inf, -inf
    for strip in _strips(image):
        values = _finite(strip)
        least, greatest = min(least, values.min()), max(greatest, values.max())

    def scale(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if greatest == least:
            return np.zeros(values.shape)
        return ((_finite(values) - least) / (greatest - least) * 255).round()

    return scale


def _finite(values: Image.Image | npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.nan_to_num(np.asarray(values, np.float64), posinf=0.0, neginf=0.0)


def _grey(image: Image.Image, scale: Scale) -> Image.Image:
    """A grey image; white where its one transparent grey stands."""
    transparent = image.info.get("transparency")
    grey, top = Image.new("L", image.size), 0
    for strip in _strips(image):
        values = np.asarray(strip)
        found = scale(values).astype(np.uint8)
        if isinstance(transparent, int):
            found[values == transparent] = 255
        grey.paste(Image.fromarray(found), (0, top))
        top += strip.height
    return grey.convert("RGB")


def give_back_memory() -> None:
    """Return to the system what large images took; glibc keeps it where anything lies behind."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
