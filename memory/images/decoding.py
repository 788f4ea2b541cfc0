"""Decode images from strangers, within limits that are checked before pixels are.

What can hurt is refused or left unread: headers that promise more pixels than the limit,
progressive JPEGs of thousands of scans, compressed text and colour profiles. Metadata other than
the orientation never reaches the memory.
"""

from __future__ import annotations

import ctypes
import io
import threading
import warnings
from dataclasses import dataclass
from functools import cache
from math import ceil

import pillow_heif
from PIL import Image, UnidentifiedImageError

from memory.errors import Misconfigured, Reason, Rejected
from memory.images import png, tiff
from memory.images.colour import to_rgb
from memory.images.jpeg import lacks_end, with_end
from memory.images.png import is_png, scale_transparency, without_metadata

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
SUFFIXES = frozenset(
    {
        *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
        *(".avif", ".heic", ".heif", ".hif"),
    }
)
"""What files of these formats are called."""

MAX_PIXELS = 178_956_970
"""Beyond twice Pillow's MAX_IMAGE_PIXELS it refuses by itself, whatever our limit says."""

DRAFT_PIXELS = 4_000_000
DRAFT_SIDE = 1024
"""A JPEG beyond so many pixels is decoded at a fraction of its size, to sides of at least this:
four times what models look at."""

MAX_SCANS = 32
"""Scans of a progressive JPEG over the largest image allowed; encoders write about ten."""

MAGIC = (png.SIGNATURE, b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

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

    Deep grey is scaled to 8 bits: 12 and 16 bits from their whole range, integers of 32 bits and
    floats, which have no agreed one, from their least to their greatest finite value.
    Raises `Rejected`: EMPTY_PAYLOAD; NOT_AN_IMAGE when it is none of `FORMATS`; UNSUPPORTED_IMAGE
    for a kind of TIFF that cannot be read; IMAGE_TOO_LARGE beyond the limits; TRUNCATED_IMAGE when
    it is cut short or broken.
    Safe to call from many threads, which take turns.
    """
    _register_formats()
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
            if kind := tiff.unsupported_kind(data):
                raise Rejected(
                    Reason.UNSUPPORTED_IMAGE, f"{kind} cannot be read; save it as PNG"
                ) from None
            if _looks_like_an_image(data):
                raise _broken("no readable header") from None
            raise Rejected(
                Reason.NOT_AN_IMAGE, f"the payload is none of {', '.join(FORMATS)}"
            ) from None
        except MemoryError:
            raise _too_large("the image takes more memory than there is; scale it down") from None
        except Exception as error:  # noqa: BLE001 - Pillow's parsers raise nearly anything
            raise _broken(type(error).__name__) from None


@cache
def _register_formats() -> None:
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    tiff.register_deep_greys()


def _decoded(data: bytes, limits: ImageLimits) -> Image.Image:
    if _webp_canvas(data) > limits.max_pixels:
        raise _too_many_pixels(limits)
    if is_png(data):
        data = without_metadata(data)
    elif lacks_end(data):
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_pixels(image, data, limits)
        data = with_end(data)
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        pixels = _check_pixels(image, data, limits)
        if pixels > DRAFT_PIXELS and min(image.size) > DRAFT_SIDE:
            shrunk = DRAFT_SIDE / min(image.size)
            image.draft(None, (ceil(image.width * shrunk), ceil(image.height * shrunk)))
        image.load()
        turn = TRANSPOSE_BY_ORIENTATION.get(_orientation(image))
        if image.format == "PNG":
            scale_transparency(image, data)
        rgb = to_rgb(image)
    return rgb if turn is None else rgb.transpose(turn)


def _check_pixels(image: Image.Image, data: bytes, limits: ImageLimits) -> int:
    pixels = image.width * image.height
    if pixels > limits.max_pixels:
        raise _too_many_pixels(limits)
    # Each scan is a pass over all pixels and may take a few bytes only. A thumbnail inside
    # the metadata has scans too: the count may be a little high, never low.
    scans = data.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 0
    if scans * pixels > MAX_SCANS * limits.max_pixels:
        raise _too_large(f"the image has {scans} scans; save it as a baseline JPEG")
    return pixels


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


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where the metadata cannot be read."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - broken metadata spoils no pixels
        return 1
    return found if isinstance(found, int) else 1


def give_back_memory() -> None:
    """Return to the system what large images took; glibc keeps it where anything lies behind."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
