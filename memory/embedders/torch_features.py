"""What embedders of torch models share: devices, dtypes, memory errors, digests."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from memory.embedders.batches import Embeddings
from memory.errors import Misconfigured

if TYPE_CHECKING:
    import torch

TORCH_DTYPES = ("float32", "float16", "bfloat16")


class TorchFeatures:
    """A torch model behind the `Features` port."""

    def __init__(
        self,
        model: torch.nn.Module,
        prepare: Callable[[Sequence[Image]], torch.Tensor],
        features: Callable[[Any, torch.Tensor], torch.Tensor],
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        with memory_errors():
            self._model = model.eval().to(device, dtype)
        self._prepare = prepare
        self._features = features
        self._device = device
        self._dtype = dtype

    def __call__(self, images: Sequence[Image]) -> Embeddings:
        import torch

        with memory_errors(), torch.inference_mode():
            pixels = self._prepare(images).to(self._device, self._dtype)
            found: Embeddings = self._features(self._model, pixels).float().cpu().numpy()
            return found


@contextmanager
def memory_errors() -> Iterator[None]:
    """Torch's ways to run out of memory, as `MemoryError`."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError("the device has not enough memory") from error
    except RuntimeError as error:
        # The CPU allocator has no error of its own.
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise MemoryError("the CPU has not enough memory") from error


def device_of(name: str | None) -> torch.device:
    """The named device, or a GPU if there is one. `Misconfigured` if it cannot be used."""
    import torch

    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except Exception as error:
        raise Misconfigured(
            f"the device {name!r} cannot be used ({type(error).__name__}); "
            "use cpu, cuda, cuda:NUMBER, or none to let it be found"
        ) from error
    return device


def dtype_of(name: str) -> torch.dtype:
    """`Misconfigured` if it is none of `TORCH_DTYPES`."""
    import torch

    if name not in TORCH_DTYPES:
        raise Misconfigured(f"unknown dtype {name!r}; use {', '.join(TORCH_DTYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def batch_size_for(device: torch.device, given: int | None) -> int:
    """Small batches stay in a CPU's cache: Lite0 embeds a quarter more images by four than by eight."""
    if given is not None and given < 1:
        raise Misconfigured(f"batch_size must be at least 1, not {given}")
    return given or (4 if device.type == "cpu" else 32)


def pool_for(device: torch.device) -> ThreadPoolExecutor | None:
    """A thread a core, each of which computes on one alone; None but on a CPU of some.

    One thread that computes on all cores waits for the slowest at each layer: Lite0 embeds 1.2 to 1.4
    times as many images so, and more beside others that want the cores.
    """
    import torch

    cores = torch.get_num_threads()
    if device.type != "cpu" or cores == 1:
        return None
    pool = ThreadPoolExecutor(cores, "embedder")
    started = threading.Barrier(cores)

    def keep_to_one_core(_: int) -> None:
        torch.get_num_threads()  # a thread's first use takes what was set last by any
        torch.set_num_threads(1)
        started.wait()

    list(pool.map(keep_to_one_core, range(cores)))
    # What was set last holds for threads that compute for the first time.
    torch.set_num_threads(cores)
    return pool


def digest_of(weights: Mapping[str, torch.Tensor], how: Mapping[str, Any]) -> str:
    """SHA-256, hex, of a model's weights and of how it is used: preprocessing, dtype, pooling.

    Tensors come in the order of their names. Device, batch size and folder take no part.
    """
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(_line([name, str(values.dtype), list(values.shape)]))
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    digest.update(_line(how))
    return digest.hexdigest()


def _line(value: Any) -> bytes:
    return (json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n").encode()
