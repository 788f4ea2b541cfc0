"""Images from strangers: decoded within limits, upright, as RGB."""

from memory.images.decoding import (
    FORMATS,
    MAX_PIXELS,
    SUFFIXES,
    ImageLimits,
    decode,
    give_back_memory,
)

__all__ = ["FORMATS", "MAX_PIXELS", "SUFFIXES", "ImageLimits", "decode", "give_back_memory"]
