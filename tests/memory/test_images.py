"""Images from strangers become RGB or a named rejection, never anything else."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import threading
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageFile

from memory.errors import Misconfigured, Reason, Rejected
from memory.images import MAX_PIXELS, ImageLimits, decode

LIMITS = ImageLimits()
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
ROOT = Path(__file__).parents[2]
WHITE = (255, 255, 255)


def picture(width: int = 24, height: int = 16) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), (250, 10, 10))
    image.paste((10, 10, 250), (width // 2, 0, width, height))
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *more: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + body + chunk(b"IEND", b"")


def reason(data: bytes, limits: ImageLimits = LIMITS) -> Reason:
    with pytest.raises(Rejected) as caught:
        decode(data, limits)
    return caught.value.reason


@pytest.mark.parametrize("kind", FORMATS)
def test_every_allowed_format_is_read(kind: str) -> None:
    image = decode(encoded(picture(), kind), LIMITS)
    assert (image.mode, image.size) == ("RGB", (24, 16))
    assert np.abs(np.asarray(image, int) - np.asarray(picture(), int)).mean() < 12


def test_no_bytes_are_an_empty_payload() -> None:
    assert reason(b"") is Reason.EMPTY_PAYLOAD


@pytest.mark.parametrize("data", [b"hello", b"\0" * 100, b"<svg></svg>", b"%PDF-1.7", b"BM"])
def test_other_bytes_are_not_an_image(data: bytes) -> None:
    assert reason(data) is Reason.NOT_AN_IMAGE


def test_a_format_that_is_not_allowed_is_not_an_image() -> None:
    assert reason(encoded(picture(), "PPM")) is Reason.NOT_AN_IMAGE


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_cut_short_is_a_truncated_image(kind: str, share: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    data = encoded(noise, kind)
    assert reason(data[: int(len(data) * share)]) is Reason.TRUNCATED_IMAGE


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_a_header_cut_short_is_a_truncated_image(kind: str) -> None:
    assert reason(encoded(picture(), kind)[:13]) is Reason.TRUNCATED_IMAGE


def test_a_wrong_checksum_is_a_broken_image() -> None:
    data = bytearray(encoded(picture()))
    data[data.index(b"IHDR") + 14] ^= 1
    assert reason(bytes(data)) is Reason.TRUNCATED_IMAGE


def test_a_png_whose_header_chunk_is_empty_is_a_broken_image() -> None:
    """Pillow raises a plain ValueError for it, not the OSError of most broken files."""
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"") + chunk(b"IEND", b"")
    assert reason(data) is Reason.TRUNCATED_IMAGE


def test_pillow_is_never_told_to_load_truncated_images() -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_more_bytes_than_the_limit_are_too_large() -> None:
    data = encoded(picture())
    assert reason(data, ImageLimits(max_bytes=len(data) - 1)) is Reason.IMAGE_TOO_LARGE
    assert decode(data, ImageLimits(max_bytes=len(data))).size == (24, 16)


@pytest.mark.parametrize("kind", FORMATS)
def test_more_pixels_than_the_limit_are_too_large(kind: str) -> None:
    data = encoded(picture(), kind)
    assert reason(data, ImageLimits(max_pixels=24 * 16 - 1)) is Reason.IMAGE_TOO_LARGE
    assert decode(data, ImageLimits(max_pixels=24 * 16)).size == (24, 16)


def vast(kind: str) -> bytes:
    """A picture of at least 12,000 x 12,000 pixels in at most 60,000 bytes."""
    if kind == "PNG":
        return png(20_000, 20_000, 1, 0, bytes(2501) * 20_000)
    if kind == "GIF":
        data = encoded(picture(), "GIF")
        return data[:6] + struct.pack("<HH", 20_000, 20_000) + data[10:]
    # Pillow itself refuses no canvas below 13,377 x 13,377 before it allocates.
    canvas = (11_999).to_bytes(3, "little") * 2
    data = encoded(picture(), "WEBP", save_all=True, append_images=[Image.new("RGB", (24, 16))])
    return data[:24] + canvas + data[30:]


CHILD = """
import resource, sys
from memory.errors import Rejected
from memory.images import ImageLimits, decode
data = sys.stdin.buffer.read()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
resource.setrlimit(resource.RLIMIT_AS, (used + 40_000_000, hard))
try:
    decode(data, ImageLimits())
except Rejected as rejected:
    print(rejected)
"""


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
def test_a_vast_image_in_a_few_kilobytes_is_refused_unallocated(kind: str) -> None:
    """In a process that may take 40 MB more; running out of them would read otherwise."""
    data = vast(kind)
    assert len(data) < 60_000
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=data, capture_output=True, check=False, cwd=ROOT
    )
    assert done.stderr == b""
    assert done.stdout.startswith(b"image-too-large: the image has more than 50000000 pixels")


@pytest.mark.parametrize(
    ("chunk_", "options", "place", "less", "shift"),
    [
        (b"VP8 ", {}, slice(26, 30), 0, 16),
        (b"VP8L", {"lossless": True}, slice(21, 25), 1, 14),
        (b"VP8X", {"icc_profile": b"any"}, slice(24, 30), 1, 24),
    ],
)
def test_a_webp_is_measured_before_its_decoder_sees_it(
    chunk_: bytes,
    options: dict[str, Any],
    place: slice,
    less: int,
    shift: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = bytearray(encoded(picture(), "WEBP", **options))
    assert data[12:16] == chunk_
    width, height = picture().size
    assert decode(bytes(data), ImageLimits(max_pixels=width * height)).size == (width, height)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("it was opened"))
    for limit, wide in ((width * height - 1, width), (11_999 * height - 1, 11_999)):
        bits = wide - less | (height - less) << shift
        data[place] = bits.to_bytes(place.stop - place.start, "little")
        assert reason(bytes(data), ImageLimits(max_pixels=limit)) is Reason.IMAGE_TOO_LARGE


def test_a_png_that_promises_more_than_pillow_itself_allows_is_too_large() -> None:
    assert reason(png(60_000, 60_000, 1, 0, b"\0")) is Reason.IMAGE_TOO_LARGE


def test_a_progressive_jpeg_of_endless_scans_is_too_large() -> None:
    data = encoded(picture(), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    bomb = data[:-2] + data[last:-2] * 40 + data[-2:]
    limits = ImageLimits(max_pixels=24 * 16)
    assert decode(data, limits).size == (24, 16)
    assert reason(bomb, limits) is Reason.IMAGE_TOO_LARGE


@pytest.mark.parametrize("kind", [b"iTXt", b"zTXt", b"iCCP"])
def test_compressed_metadata_of_a_png_is_left_unread(kind: bytes) -> None:
    swollen = zlib.compress(bytes(200_000_000), 9)
    between = b"key\0\1\0\0\0" if kind == b"iTXt" else b"key\0\0"
    bomb = chunk(kind, between + swollen)
    rows = b"".join(b"\0" + bytes([9, 9, 9]) * 2 for _ in range(2))
    tracemalloc.start()
    try:
        image = decode(png(2, 2, 8, 2, rows, *[bomb] * 4), LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()
    assert image.getpixel((1, 1)) == (9, 9, 9)


def test_broken_exif_spoils_no_pixels() -> None:
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0" + b"\xff" * 4000)
    assert decode(data, LIMITS).size == (24, 16)


def test_a_huge_colour_profile_spoils_no_pixels() -> None:
    data = encoded(picture(), "JPEG", icc_profile=bytes(500_000))
    assert decode(data, LIMITS).size == (24, 16)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_many_frames_the_first_counts(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue") * 30]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert decode(data, LIMITS).getpixel((4, 4)) == (255, 0, 0)


def test_cmyk_becomes_rgb() -> None:
    image = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"), LIMITS)
    assert image.getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    image = decode(encoded(Image.fromarray(values), kind), LIMITS)
    assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_16_bit_colour_is_scaled_not_clipped() -> None:
    row = b"\0" + struct.pack(">6H", 0, 32768, 65535, 256, 255, 511)
    image = decode(png(2, 1, 16, 2, row), LIMITS)
    assert np.asarray(image).tolist() == [[[0, 128, 255], [1, 0, 1]]]


def test_16_bit_colour_with_alpha_is_put_on_white() -> None:
    row = b"\0" + struct.pack(">8H", 65535, 0, 0, 0, 65535, 0, 0, 65535)
    image = decode(png(2, 1, 16, 6, row), LIMITS)
    assert np.asarray(image).tolist() == [[list(WHITE), [255, 0, 0]]]


def test_a_transparent_16_bit_grey_is_white() -> None:
    row = b"\0" + struct.pack(">2H", 1000, 512)
    image = decode(png(2, 1, 16, 0, row, chunk(b"tRNS", struct.pack(">H", 1000))), LIMITS)
    assert np.asarray(image)[0, :, 0].tolist() == [255, 2]


def test_floats_are_stretched_over_the_greys() -> None:
    values = np.array([[0.0, 0.5, 1.0]], np.float32)
    image = decode(encoded(Image.fromarray(values), "TIFF"), LIMITS)
    assert np.asarray(image)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("mode", "clear", "opaque"),
    [("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)), ("LA", (0, 0), (0, 255))],
)
def test_what_is_transparent_is_put_on_white(
    mode: str, clear: tuple[int, ...], opaque: tuple[int, ...]
) -> None:
    image = Image.new(mode, (2, 1), clear)
    image.putpixel((1, 0), opaque)
    assert np.asarray(decode(encoded(image), LIMITS)).tolist() == [[list(WHITE), [0, 0, 0]]]


def test_half_transparent_black_on_white_is_grey() -> None:
    image = decode(encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 128))), LIMITS)
    assert image.getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("transparency", [0, bytes([0, 255])])
def test_a_palette_with_transparency_is_put_on_white(transparency: int | bytes) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 200, 0, 0])
    image.putpixel((1, 0), 1)
    found = decode(encoded(image, transparency=transparency), LIMITS)
    assert np.asarray(found).tolist() == [[list(WHITE), [200, 0, 0]]]


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_images_without_three_channels_become_rgb(mode: str) -> None:
    image = Image.new("L", (2, 1), 0)
    image.putpixel((1, 0), 255)
    found = decode(encoded(image.convert(mode)), LIMITS)
    assert np.asarray(found).tolist() == [[[0, 0, 0], list(WHITE)]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    """Stored so that it must be turned to stand upright: red, blue / green, white."""
    upright = np.array(
        [[(255, 0, 0), (0, 0, 255)], [(0, 160, 0), WHITE]], np.uint8
    ).repeat(16, 0).repeat(24, 1)  # fmt: skip
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(encoded(Image.fromarray(stored.copy()), kind, exif=exif), LIMITS)
    assert found.size == (48, 32)
    assert np.abs(np.asarray(found, int) - upright).mean() < 12


def test_threads_decode_side_by_side() -> None:
    good = [encoded(picture(), kind) for kind in FORMATS]
    bad = encoded(picture())[:60]
    start = threading.Barrier(4)

    def work(_: int) -> int:
        start.wait()
        sizes = [decode(data, LIMITS).size for data in good * 5]
        assert reason(bad) is Reason.TRUNCATED_IMAGE
        return sizes.count((24, 16))

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(4))) == [30] * 4


def test_an_image_for_which_there_is_no_memory_is_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    image = encoded(picture())
    monkeypatch.setattr(Image.Image, "load", no_memory)
    monkeypatch.setattr(ImageFile.ImageFile, "load", no_memory)
    assert reason(image) is Reason.IMAGE_TOO_LARGE


@pytest.mark.parametrize("pixels", [0, MAX_PIXELS + 1])
def test_limits_that_cannot_hold_are_a_misconfiguration(pixels: int) -> None:
    with pytest.raises(Misconfigured, match="max_pixels"):
        ImageLimits(max_pixels=pixels)


def test_a_limit_of_no_bytes_is_a_misconfiguration() -> None:
    with pytest.raises(Misconfigured, match="max_bytes"):
        ImageLimits(max_bytes=0)
    assert ImageLimits(max_bytes=1).max_bytes == 1


VALID = [
    *(encoded(picture(), kind) for kind in FORMATS),
    encoded(picture(), "JPEG", progressive=True, exif=b"Exif\0\0II*\0\1\0\x12\1\3\0\1\0\0\0\6\0"),
    encoded(picture().convert("P"), "PNG", transparency=0),
    encoded(picture(), "TIFF", compression="tiff_lzw"),
    encoded(picture(), "TIFF", compression="tiff_adobe_deflate"),
    *(
        encoded(picture(), kind, save_all=True, append_images=[Image.new("RGB", (24, 16))])
        for kind in ("WEBP", "GIF", "PNG")
    ),
    encoded(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 999), "PNG"),
]


@settings(max_examples=600)
@given(
    st.sampled_from(VALID),
    st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4)), max_size=8),
    st.floats(0, 1) | st.just(1.0),
)
def test_a_mutated_file_is_an_image_or_rejected(
    data: bytes, edits: list[tuple[float, bytes]], length: float
) -> None:
    mutated = bytearray(data)
    for place, patch in edits:
        at = int(place * (len(data) - 1))
        mutated[at : at + len(patch)] = patch
    del mutated[int(length * len(mutated)) :]
    # A small limit: mutated sizes may be anything, and the machine is shared.
    with contextlib.suppress(Rejected):
        assert decode(bytes(mutated), ImageLimits(max_pixels=1_000_000)).mode == "RGB"


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size() -> None:
    whole = Image.radial_gradient("L").resize((4200, 2100)).convert("RGB")
    large = encoded(whole, "JPEG", quality=95)
    found = decode(large, ImageLimits(max_bytes=len(large)))
    assert found.size == (2100, 1050)
    difference = np.asarray(ImageChops.difference(found, whole.resize(found.size)))
    assert difference.max() < 16
    small = encoded(whole.resize((2800, 1400)), "JPEG")
    assert decode(small, ImageLimits(max_bytes=len(small))).size == (2800, 1400)
    narrow = encoded(whole.resize((9000, 900)), "JPEG")
    assert decode(narrow, ImageLimits(max_bytes=len(narrow))).size == (9000, 900)
