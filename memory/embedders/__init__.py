"""Embedders: transformers models, the packaged EfficientNet-Lite0, or none (ready vectors).

Importing this package is cheap; torch and transformers load with the first embedder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image

from memory.embedders.batches import BatchedEmbedder, Embeddings
from memory.embedders.lite0 import Lite0Embedder
from memory.embedders.transformers_model import TransformersEmbedder
from memory.errors import Misconfigured, Reason, Rejected
from memory.ports import Embedder

FORMS = "lite0 | transformers:NAME_OR_FOLDER[@REVISION] | vectors:NAME:DIMENSION"


def load_embedder(
    spec: str,
    *,
    device: str | None = None,
    dtype: str = "float32",
    batch_size: int | None = None,
) -> Embedder:
    """The embedder a setting names. `Misconfigured` when it is unknown or cannot be loaded.

    `device` None takes a GPU where there is one; `batch_size` None is what suits the device.
    `dtype` is of transformers models only; the others have one.
    """
    kind, _, rest = spec.partition(":")
    if spec == "lite0":
        return Lite0Embedder(device=device, batch_size=batch_size)
    if kind == "transformers" and rest:
        # A folder's name may have an @ of its own.
        name, _, revision = (rest, "", "") if Path(rest).is_dir() else rest.partition("@")
        return TransformersEmbedder(
            name, revision=revision or None, device=device, dtype=dtype, batch_size=batch_size
        )
    if kind == "vectors":
        name, _, dim = rest.rpartition(":")
        if name and dim.isascii() and dim.isdecimal() and int(dim) > 0:
            return VectorsOnly(name, int(dim))
    raise Misconfigured(f"unknown embedder {spec!r}; use {FORMS}")


class VectorsOnly:
    """No embedder: events bring vectors. Its digest is its name, so that producers can give it."""

    def __init__(self, name: str, dim: int) -> None:
        self.name = name
        self.digest = name
        self.dim = dim

    def embed(self, images: Sequence[Image]) -> Embeddings:
        """Raises `Rejected` (NO_EMBEDDER): there is nothing to embed with."""
        _ = images
        raise Rejected(Reason.NO_EMBEDDER, "this memory takes ready vectors only")


__all__ = [
    "BatchedEmbedder",
    "Lite0Embedder",
    "TransformersEmbedder",
    "VectorsOnly",
    "load_embedder",
]
