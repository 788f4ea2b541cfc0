"""Whatever numbers an image holds, as RGB of 8 bits on white."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from memory.images import tiff

STRIP_PIXELS = 1 << 20
"""What is made of large images by way of wider numbers is made strip by strip."""

Scale = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""From an image's own numbers to 0 to 255."""


def to_rgb(image: Image.Image) -> Image.Image:
    """The image as RGB, white where it is transparent; deep grey is scaled to 8 bits."""
    if image.mode.startswith("I;16"):
        return _grey(image, _from_bits(tiff.sample_bits(image)))
    if image.mode in ("I", "F"):
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


def _from_bits(bits: int) -> Scale:
    """The high byte, as Pillow takes of 16-bit colour."""
    return lambda values: values >> (bits - 8)


def _stretch_of(image: Image.Image) -> Scale:
    """From the least to the greatest finite value; what is no number is as the least."""
    numbers = np.uint32 if image.mode == "I" and tiff.has_no_sign(image) else None
    least, greatest = inf, -inf
    for strip in _strips(image):
        values = _wide(np.asarray(strip), numbers)
        finite = values[np.isfinite(values)]
        if finite.size:
            least, greatest = min(least, finite.min()), max(greatest, finite.max())

    def scale(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if greatest <= least:
            return np.zeros(values.shape)
        found = np.nan_to_num(_wide(values, numbers), nan=least, posinf=greatest, neginf=least)
        return ((found - least) / (greatest - least) * 255).round()

    return scale


def _wide(values: npt.NDArray[Any], numbers: type[np.uint32] | None) -> npt.NDArray[np.float64]:
    return (values if numbers is None else values.view(numbers)).astype(np.float64)


def _grey(image: Image.Image, scale: Scale) -> Image.Image:
    """A grey image; white where its one transparent grey stands."""
    transparent = image.info.get("transparency")
    inverted = tiff.zero_is_white(image)
    grey, top = Image.new("L", image.size), 0
    for strip in _strips(image):
        values = np.asarray(strip)
        found = scale(values).astype(np.uint8)
        if inverted:
            found = 255 - found
        if isinstance(transparent, int):
            found[values == transparent] = 255
        grey.paste(Image.fromarray(found), (0, top))
        top += strip.height
    return grey.convert("RGB")
