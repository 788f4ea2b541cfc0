"""What may be sent as an image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.errors import Reason, Rejected
from memory.model.events import ClaimPayload, ImagePayload, Payload, VectorPayload

Image = bytes | Path | npt.NDArray[Any] | ClaimPayload
"""Its bytes, its file, a ready vector, or a claim on it."""


def payload_of(
    image: Image | None, embedder: str | None, check_size: Callable[[int], None]
) -> Payload:
    """The payload to send. `embedder` is the digest that a vector needs.

    Raises `Rejected`, also from `check_size`, which is told the bytes before they are read.
    """
    match image:
        case np.ndarray():
            if embedder is None:
                raise Rejected(
                    Reason.NO_EMBEDDER, "a vector needs the digest of the embedder that made it"
                )
            return VectorPayload(image, embedder)
        case Path():
            check_size(image.stat().st_size)
            return ImagePayload(image.read_bytes())
        case bytes():
            check_size(len(image))
            return ImagePayload(image)
        case ClaimPayload():
            return image
        case _:
            raise TypeError("an image is bytes, a Path, a claim, or a numpy vector")
