"""Any vision model of transformers as an embedder."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL.Image import Image, radial_gradient

from memory.embedders.batches import BatchedEmbedder
from memory.embedders.torch_features import (
    TorchFeatures,
    batch_size_for,
    device_of,
    digest_of,
    dtype_of,
    pool_for,
)
from memory.errors import Misconfigured

if TYPE_CHECKING:
    import torch

CLASS_TOKEN = frozenset(
    {"deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "vit", "vit_msn"},
)
"""Models whose embedding is the class token after the last layer norm.

| models | embedding |
|---|---|
| CLIP, SigLIP and others of two towers | the projected image feature, `get_image_features` |
| those named here | the class token; DINOv2's pooled output is the same, ViT's is one more layer \
that many checkpoints come without |
| others (ConvNeXt, ResNet, Swin, BEiT, ...) | the pooled output; without one, the mean over space |
"""

MAX_ASPECT = 16
"""Longer images lose their ends first: a short side of 1 pixel, scaled to 256, takes all memory."""

IGNORED_CONFIG_KEYS = frozenset(
    {
        "_name_or_path", "architectures", "attention_dropout", "attention_probs_dropout_prob",
        "data_format", "device", "drop_path_rate", "dropout",
        "dtype", "hidden_dropout_prob", "id2label", "initializer_factor", "initializer_range",
        "input_data_format", "label2id", "problem_type", "processor_class", "return_tensors",
        "torch_dtype", "transformers_version", "use_cache",
    },
)  # fmt: skip
"""Settings that change no embedding in evaluation."""


class TransformersEmbedder(BatchedEmbedder):
    """A model by its hub name or local folder, prepared for by its own image processor.

    Weights are read from safetensors only and no code of the model's repository is run. A
    revision pins a hub name; without one the digest tells when the hub's model has changed.
    """

    def __init__(
        self,
        name_or_path: str,
        *,
        revision: str | None = None,
        device: str | None = None,
        dtype: str = "float32",
        batch_size: int | None = None,
    ) -> None:
        kind, where = dtype_of(dtype), device_of(device)
        model, processor, untrained = _load(name_or_path, revision)
        rule, features = _embedding(model)
        if rule == "class-token":
            untrained = {name for name in untrained if not name.startswith("pooler.")}
        if untrained:
            raise Misconfigured(
                f"the model {name_or_path!r} comes without weights for {sorted(untrained)[:3]}; "
                "its embeddings would be random; use a checkpoint that has them"
            )
        used = {
            key: weight
            for key, weight in model.state_dict().items()
            if rule != "class-token" or not key.startswith("pooler.")
        }
        digest = digest_of(
            used,
            {
                "model": significant_config(model.config.to_dict()),
                "processor": significant_config(processor.to_dict()),
                "embedding": rule,
                "max_aspect": MAX_ASPECT,
                "dtype": dtype,
            },
        )

        def prepare(images: Sequence[Image]) -> torch.Tensor:
            pixels: torch.Tensor = processor(
                images=[_without_ends(image) for image in images], return_tensors="pt"
            )["pixel_values"]
            return pixels

        super().__init__(
            f"{name_or_path}@{revision}" if revision else name_or_path,
            digest,
            TorchFeatures(model, prepare, features, device=where, dtype=kind),
            batch_size=batch_size_for(where, batch_size),
            pool=pool_for(where),
        )
        self._check_repeatable()

    def _check_repeatable(self) -> None:
        probe = [radial_gradient("L").convert("RGB")]
        first, second = self._features(probe), self._features(probe)
        if not np.allclose(first, second, rtol=1e-2, atol=1e-2, equal_nan=True):
            raise Misconfigured(
                f"the model {self.name!r} gives another embedding each time (a masked "
                "autoencoder?); use one that does not"
            )


def _load(name: str, revision: str | None) -> tuple[Any, Any, set[str]]:
    """Model, image processor, and the names of weights the checkpoint lacks."""
    from transformers import AutoImageProcessor, AutoModel

    if name.startswith(("/", "./", "../", "~")) and not Path(name).expanduser().is_dir():
        raise Misconfigured(f"the folder of the model, {name!r}, is not there")
    options: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": False}
    try:
        with warnings.catch_warnings():
            # An operator cannot act on what the library warns of at load.
            warnings.simplefilter("ignore")
            folder = str(Path(name).expanduser()) if name.startswith("~") else name
            processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]  # untyped there
                folder, **options
            )
            model, seen = AutoModel.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, **options
            )
    except Exception as error:
        raise Misconfigured(
            f"the model {name!r} cannot be loaded ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else 'no detail'}); name "
            "a folder with config.json, preprocessor_config.json and model.safetensors, or check "
            "that the hub is reachable and that name and revision are right"
        ) from error
    return model, processor, set(seen["missing_keys"])


def _embedding(model: Any) -> tuple[str, Callable[[Any, torch.Tensor], torch.Tensor]]:
    """Which embedding a model has (see `CLASS_TOKEN`), and the function that gets it."""
    if hasattr(model, "get_image_features"):
        return "projected", _projected
    if model.config.model_type in CLASS_TOKEN:
        return "class-token", lambda net, pixels: net(pixel_values=pixels).last_hidden_state[:, 0]
    return "pooled", _pooled


def _projected(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    found = model.get_image_features(pixel_values=pixels)
    projected: torch.Tensor = getattr(found, "pooler_output", found)
    return projected


def _pooled(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    output = model(pixel_values=pixels)
    pooled: torch.Tensor | None = getattr(output, "pooler_output", None)
    if pooled is not None:
        return pooled.flatten(1)
    last: torch.Tensor = output.last_hidden_state
    return last.mean(1) if last.ndim == 3 else last.mean((2, 3))


def _without_ends(image: Image) -> Image:
    """The middle of an image longer than `MAX_ASPECT` times its short side."""
    longest = MAX_ASPECT * min(image.size)
    if max(image.size) <= longest:
        return image
    left, top = ((side - min(side, longest)) // 2 for side in image.size)
    return image.crop(
        (left, top, left + min(image.width, longest), top + min(image.height, longest))
    )


def significant_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what is off, unset or beside the point.

    Libraries add settings, off at first, with every version; a memory outlives many of them.
    """
    kept = {
        key: significant_config(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in IGNORED_CONFIG_KEYS and value is not None and value is not False
    }
    if "image_processor_type" in kept:
        # Transformers 5 dropped the suffix on its way.
        kept["image_processor_type"] = str(kept["image_processor_type"]).removesuffix("Fast")
    return kept
