"""Decode images from strangers, within limits that are checked before pixels are."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from memory.errors import Reason, Rejected

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The largest encoded image, in bytes, and the largest decoded one, in pixels."""

    max_bytes: int = 1 << 20
    max_pixels: int = 50_000_000


def decode(data: bytes, limits: ImageLimits) -> Image.Image:
    """The image as RGB, upright, on white where it is transparent; the first frame of many.

    Raises `Rejected` for everything that is no whole image within the limits.
    """
    if not data:
        raise Rejected(Reason.EMPTY_PAYLOAD, "the image has no bytes")
    if len(data) > limits.max_bytes:
        raise Rejected(
            Reason.IMAGE_TOO_LARGE,
            f"the image has {len(data)} bytes; at most {limits.max_bytes} are allowed",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError:
            raise _too_many_pixels(limits) from None
        except UnidentifiedImageError:
            raise Rejected(
                Reason.NOT_AN_IMAGE, f"the payload is none of {', '.join(FORMATS)}"
            ) from None
        except Exception as error:  # noqa: BLE001 - Pillow's parsers raise nearly anything
            raise _broken(error) from None
        if image.width * image.height > limits.max_pixels:
            raise _too_many_pixels(limits)
        try:
            image.load()
            return _on_white(ImageOps.exif_transpose(image))
        except Exception as error:  # noqa: BLE001 - as above
            raise _broken(error) from None


def _too_many_pixels(limits: ImageLimits) -> Rejected:
    return Rejected(
        Reason.IMAGE_TOO_LARGE, f"the image has more than {limits.max_pixels} pixels; scale it down"
    )


def _broken(error: Exception) -> Rejected:
    return Rejected(
        Reason.TRUNCATED_IMAGE, f"the image is broken or cut short ({type(error).__name__})"
    )


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow clips 16 bits to 8 on conversion; scaling keeps what is seen.
        scaled = np.asarray(image, np.int64).clip(0, 65535) // 257
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if "transparency" in image.info or image.mode in ("LA", "La", "RGBA", "RGBa", "PA"):
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
