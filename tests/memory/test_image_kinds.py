"""Kinds of images that phones, microscopes and old tools make."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pillow_heif
import pytest
from PIL import Image

from memory.errors import Reason, Rejected
from memory.images import SUFFIXES, ImageLimits, decode
from tests.memory.test_images import LIMITS, WHITE, chunk, encoded, picture, png, reason

pillow_heif.register_heif_opener()


def greys(data: bytes) -> list[int]:
    """The first row of what is grey in all three channels."""
    pixels = np.asarray(decode(data, LIMITS))
    assert (pixels == pixels[..., :1]).all()
    found: list[int] = pixels[0, :, 0].tolist()
    return found


def same(one: Image.Image, other: Image.Image) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(other))


def tiff(
    order: str,
    bits: int,
    pixels: bytes,
    width: int,
    *,
    zero: int = 1,
    kind: int = 1,
    samples: int = 1,
) -> bytes:
    """A TIFF of one row, uncompressed. `kind`: 1 unsigned, 2 signed, 3 float."""
    entries = [
        (256, 4, width),
        (257, 4, 1),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, zero),
        (273, 4, 8),
        (277, 3, samples),
        (278, 4, 1),
        (279, 4, len(pixels)),
        (339, 3, kind),
    ]
    padded = pixels + b"\0" * (len(pixels) % 2)
    directory = struct.pack(f"{order}H", len(entries))
    for tag, type_, value in entries:
        packed = struct.pack(f"{order}{'I' if type_ == 4 else 'H'}", value).ljust(4, b"\0")
        directory += struct.pack(f"{order}HHI", tag, type_, 1) + packed
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(f"{order}I", 8 + len(padded)) + padded + directory + b"\0" * 4


ORDERS = pytest.mark.parametrize("order", ["<", ">"])


@ORDERS
@pytest.mark.parametrize("zero", [0, 1])
def test_16_bit_grey_of_any_order_and_meaning_of_zero(order: str, zero: int) -> None:
    row = np.array([0, 256, 32768, 65535], f"{order}u2")
    found = greys(tiff(order, 16, row.tobytes(), 4, zero=zero))
    assert found == ([0, 1, 128, 255] if zero else [255, 254, 127, 0])


@ORDERS
@pytest.mark.parametrize("zero", [0, 1])
def test_packed_12_bit_grey_is_as_bright_as_it_is(order: str, zero: int) -> None:
    values = [0, 16, 2048, 4095]
    packed = b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255])
        for a, b in zip(values[::2], values[1::2], strict=True)
    )
    found = greys(tiff(order, 12, packed, 4, zero=zero))
    assert found == ([0, 1, 128, 255] if zero else [255, 254, 127, 0])


@ORDERS
@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (1, [0, 2**31, 2**32 - 1]),
        (1, [1000, 1500, 2000]),
        (2, [-(2**31), 0, 2**31 - 1]),
        (3, [-1.0, 0.0, 1.0]),
    ],
)
def test_numbers_of_32_bits_are_stretched(order: str, kind: int, values: Sequence[float]) -> None:
    row = np.array(values, f"{order}{'_uif'[kind]}4")
    assert greys(tiff(order, 32, row.tobytes(), 3, kind=kind)) == pytest.approx(
        [0, 128, 255], abs=1
    )


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_takes_no_contrast_from_the_others(odd: float) -> None:
    row: npt.NDArray[np.float32] = np.array([[1000, 1000.5, 1001, odd]], np.float32)
    found = greys(encoded(Image.fromarray(row), "TIFF"))
    assert found == [0, 128, 255, 255 if odd == np.inf else 0]
    nothing = np.full((1, 2), odd, np.float32)
    assert greys(encoded(Image.fromarray(nothing), "TIFF")) == [0, 0]


def test_a_kind_of_tiff_that_cannot_be_read_is_named() -> None:
    """It is whole: that it is broken or cut short would be untrue."""
    data = tiff("<", 64, bytes(16), 2, kind=3)
    with pytest.raises(
        Rejected, match="a TIFF of 1 samples of 64 bits a pixel cannot be read"
    ) as e:
        decode(data, LIMITS)
    assert e.value.reason is Reason.UNSUPPORTED_IMAGE
    for length in (4, 5, 8, 30):
        assert reason(data[:length]) is Reason.TRUNCATED_IMAGE


@pytest.mark.parametrize(
    ("kind", "suffix"), [("AVIF", ".avif"), ("HEIF", ".heic"), ("HEIF", ".heif"), ("MPO", ".jpg")]
)
def test_what_phones_make_is_read(kind: str, suffix: str) -> None:
    data = encoded(picture(64, 48), kind)
    image = decode(data, LIMITS)
    assert (image.mode, image.size) == ("RGB", (64, 48))
    assert np.abs(np.asarray(image, int) - np.asarray(picture(64, 48), int)).mean() < 12
    assert reason(data, ImageLimits(max_pixels=64 * 48 - 1)) is Reason.IMAGE_TOO_LARGE
    assert suffix in SUFFIXES


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_what_phones_make_cut_short_is_refused(kind: str, share: float) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    found = reason(data[: int(len(data) * share)])
    assert found in (Reason.TRUNCATED_IMAGE, Reason.NOT_AN_IMAGE)


def test_an_avif_stands_upright() -> None:
    """Of HEIF libheif turns the picture itself, as the format wants it: its EXIF says nothing."""
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = picture(64, 32).transpose(Image.Transpose.ROTATE_90)
    found = decode(encoded(lying, "AVIF", exif=exif), LIMITS)
    assert found.size == (64, 32)
    assert np.abs(np.asarray(found, int) - np.asarray(picture(64, 32), int)).mean() < 12


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    b'syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/">'
    b"<tiff:Orientation>6</tiff:Orientation></rdf:Description></rdf:RDF></x:xmpmeta>"
)


def profile() -> bytes:
    """As ImageMagick writes it: its name, its length, and hex digits in lines."""
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    digits = raw.hex()
    lines = "\n".join(digits[start : start + 72] for start in range(0, len(digits), 72))
    return f"\nexif\n{len(raw):8}\n{lines}\n".encode()


def itxt(keyword: bytes, text: bytes, *, packed: bool) -> bytes:
    body = zlib.compress(text) if packed else text
    return chunk(b"iTXt", keyword + b"\0" + bytes([packed, 0]) + b"en\0\0" + body)


TEXTS = {
    "XMP": itxt(b"XML:com.adobe.xmp", XMP, packed=False),
    "packed XMP": itxt(b"XML:com.adobe.xmp", XMP, packed=True),
    "EXIF": chunk(b"tEXt", b"Raw profile type exif\0" + profile()),
    "packed EXIF": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile())),
    "APP1": chunk(b"zTXt", b"Raw profile type APP1\0\0" + zlib.compress(profile())),
}


@pytest.mark.parametrize("place", ["before the pixels", "behind them"])
@pytest.mark.parametrize("text", TEXTS)
def test_the_orientation_in_a_pngs_texts_is_applied(text: str, place: str) -> None:
    lying = encoded(picture(24, 16).transpose(Image.Transpose.ROTATE_90))
    cut = 33 if place == "before the pixels" else len(lying) - 12
    data = lying[:cut] + TEXTS[text] + lying[cut:]
    assert same(decode(data, LIMITS), picture(24, 16))


@pytest.mark.parametrize(
    "text",
    [
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(10**8))),
        chunk(b"zTXt", b"Raw profile type exif\0\0no zlib"),
        chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 4\nno hex"),
        chunk(b"iTXt", b"XML:com.adobe.xmp"),
        itxt(b"XML:com.adobe.xmp", XMP.replace(b"6", b"9"), packed=True),
        chunk(b"tEXt", b"Comment\0" + bytes(70_000)),
    ],
    ids=["swells", "no zlib", "no hex", "no text", "no orientation", "a comment"],
)
def test_a_text_that_is_too_long_or_broken_spoils_no_image(text: bytes) -> None:
    plain = encoded(picture())
    assert same(decode(plain[:33] + text + plain[33:], LIMITS), picture())


@pytest.mark.parametrize(("depth", "key"), [(1, 1), (2, 2), (4, 10), (8, 200), (16, 1000)])
def test_the_transparent_grey_of_every_depth_is_white(depth: int, key: int) -> None:
    row = key << (16 - depth) if depth < 16 else key
    packed = b"\0" + struct.pack(">HH", row, 0)[: max(2, depth // 4)]
    data = png(2, 1, depth, 0, packed, chunk(b"tRNS", struct.pack(">H", key)))
    assert greys(data) == [255, 0]
    other = png(2, 1, depth, 0, packed, chunk(b"tRNS", struct.pack(">H", 0)))
    assert greys(other)[0] == (key * 255 // ((1 << depth) - 1) if depth < 16 else key >> 8)
    assert greys(other)[1] == 255


def test_the_transparent_colour_of_16_bits_is_white() -> None:
    row = b"\0" + struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0, 0, 0)
    key = chunk(b"tRNS", struct.pack(">3H", 0x1234, 0x5678, 0x9ABC))
    found = np.asarray(decode(png(2, 1, 16, 2, row, key), LIMITS)).tolist()
    assert found == [[list(WHITE), [0, 0, 0]]]


def noisy(side: int = 64, **options: object) -> bytes:
    pixels = np.random.default_rng(3).integers(0, 255, (side, side, 3), np.uint8)
    data = encoded(Image.fromarray(pixels), "JPEG", **options)
    assert data.endswith(b"\xff\xd9")
    return data


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"restart_marker_blocks": 2}], ids=str)
def test_a_jpeg_that_lacks_only_its_end_is_all_there(options: dict[str, int]) -> None:
    data = noisy(**options)
    assert same(decode(data[:-2], LIMITS), decode(data, LIMITS))
    assert same(decode(data[:-1], LIMITS), decode(data, LIMITS))


@pytest.mark.parametrize("missing", [8, 20, 100, 1000])
def test_a_jpeg_that_lacks_pixels_too_is_refused(missing: int) -> None:
    for side in (16, 64, 120):
        data = noisy(side)
        if missing < len(data) - 700:
            assert reason(data[:-missing]) is Reason.TRUNCATED_IMAGE


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_progressive_jpeg_without_its_end_is_all_there_when_no_scan_is_missing(mode: str) -> None:
    pixels = np.random.default_rng(3).integers(0, 255, (64, 64, len(mode)), np.uint8)
    image = Image.frombytes(mode, (64, 64), pixels.tobytes())
    data = encoded(image, "JPEG", progressive=True)
    scans = [found.start() for found in re.finditer(b"\xff\xda", data)]
    assert len(scans) >= 4
    assert same(decode(data[:-2], LIMITS), decode(data, LIMITS))
    assert same(decode(data[:-1], LIMITS), decode(data, LIMITS))
    for cut in (*scans, *(scan + 20 for scan in scans), len(data) - 8, len(data) - 100):
        assert reason(data[:cut]) is Reason.TRUNCATED_IMAGE


def test_a_scan_that_says_it_is_nothing_ends_no_search_for_scans() -> None:
    odd = b"\xff\xda\x00\x00" + b"\xff\xda\x00\x02" + b"\xff\xda\x00\x08\x01\x09\x00\x00\x3f\x00"
    data = noisy(progressive=True)
    assert reason(data[:2] + odd + data[2:-2]) is Reason.TRUNCATED_IMAGE
    assert reason(data[:-2] + odd) is Reason.TRUNCATED_IMAGE


def test_a_jpeg_without_its_end_is_bounded_like_others() -> None:
    assert reason(noisy()[:-2], ImageLimits(max_pixels=64 * 64 - 1)) is Reason.IMAGE_TOO_LARGE
    out = io.BytesIO(noisy()[:-2])
    assert decode(out.getvalue(), ImageLimits(max_pixels=64 * 64)).size == (64, 64)
