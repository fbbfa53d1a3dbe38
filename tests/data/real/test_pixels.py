"""Any image becomes uint8, or an error that names its row."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from dd_plugin.data.real.columns import DataError
from dd_plugin.data.real.pixels import read_pixels


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return {"bytes": file.getvalue(), "path": None}


def test_every_way_to_hold_an_image_gives_the_same_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image = PILImage.fromarray(pixels)
    image.save(tmp_path / "a.png")
    cell = encoded(image)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    holders = [
        cell,
        cell["bytes"],
        {"bytes": None, "path": str(tmp_path / "a.png")},
        str(tmp_path / "a.png"),
        tmp_path / "a.png",
        image,
        pixels,
        pixels.tolist(),
        pixels.astype(np.int64),
        (pixels / 255).astype(np.float32),
        np.moveaxis(pixels, -1, 0),  # `pixel_values`: 3 x 5 x 6 cannot be height first
        tensor,
        tensor.float() / 255,
    ]
    for holder in holders:
        np.testing.assert_array_equal(read_pixels(holder, 0), pixels)


def test_grey_images():
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3) * 50
    image = PILImage.fromarray(pixels)
    for holder in (image, encoded(image), pixels, torch.from_numpy(pixels)[None]):
        np.testing.assert_array_equal(read_pixels(holder, 0), pixels[..., None])
        repeated = read_pixels(holder, 0, channels=3)
        np.testing.assert_array_equal(repeated, np.repeat(pixels[..., None], 3, axis=2))


def test_colour_becomes_luminance_on_request():
    # ITU-R 601-2: 0.299 R + 0.587 G + 0.114 B = 76.2 for pure red.
    red = encoded(PILImage.new("RGB", (2, 2), (255, 0, 0)))
    assert read_pixels(red, 0, channels=1).tolist() == [[[76], [76]], [[76], [76]]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "F"])
def test_modes_of_a_white_image(mode):
    white = {"I;16": 65535, "F": 1.0}.get(mode)
    if white is None:
        image = PILImage.new("RGB", (3, 2), "white").convert(mode)
    else:
        image = PILImage.new(mode, (3, 2), white)
    kind = {"CMYK": "JPEG", "YCbCr": "JPEG", "F": "TIFF"}.get(mode, "PNG")
    pixels = read_pixels(encoded(image, kind), 0)
    grey = mode in ("1", "L", "LA", "I;16", "F")
    assert pixels.shape == (2, 3, 1 if grey else 3)
    assert pixels.min() == 255


def test_sixteen_bits_are_scaled_not_cut():
    # 257 = 65535 / 255: grey value g of 8 bits is 257 g of 16.
    values = np.array([[0, 257, 257 * 128, 65535]], dtype=np.uint16)
    pixels = read_pixels(encoded(PILImage.fromarray(values)), 0)
    assert pixels[..., 0].tolist() == [[0, 1, 128, 255]]
    thirty_two = PILImage.fromarray(np.array([[0, 1 << 20]], dtype=np.int32))
    with pytest.raises(DataError, match=r"row 4.*more than 16 bits"):
        read_pixels(encoded(thirty_two, "TIFF"), 4)
    eight = PILImage.fromarray(np.array([[0, 200]], dtype=np.int32))
    assert read_pixels(eight, 0)[..., 0].tolist() == [[0, 200]]


def test_exif_orientation_turns_the_image():
    image = PILImage.new("RGB", (8, 4))
    exif = PILImage.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    assert read_pixels(encoded(image, "JPEG", exif=exif), 0).shape == (8, 4, 3)
    assert read_pixels(encoded(image, "PNG", exif=exif), 0).shape == (8, 4, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_other_sizes_are_covered_and_the_middle_is_cut_out(kind):
    # Left third black, middle white, right black: a square from the middle is white.
    pixels = np.zeros((100, 300), dtype=np.uint8)
    pixels[:, 100:200] = 255
    image = encoded(PILImage.fromarray(pixels), kind)
    small = read_pixels(image, 0, size=(10, 10))
    assert small.shape == (10, 10, 1)
    assert small[:, 1:-1].min() > 230
    assert read_pixels(image, 0, size=(200, 600)).shape == (200, 600, 1)  # larger, too
    assert read_pixels(pixels[..., None], 0, size=(7, 9), channels=3).shape == (7, 9, 3)


def test_float_pixels_are_rounded_to_eight_bits():
    values = np.array([[0.0, 0.4 / 255, 0.6 / 255, 1.0]])
    assert read_pixels(values, 0)[..., 0].tolist() == [[0, 0, 1, 255]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "it is None"),
        ({"bytes": None, "path": None}, "neither bytes nor a path"),
        ({"bytes": b"", "path": "cat.png"}, "the image cat.png cannot be read"),
        ({"bytes": b"no image", "path": None}, "it has no format that Pillow knows"),
        ({"bytes": None, "path": "/nowhere/cat.png"}, "cat.png"),
        (np.full((2, 2), 1.5), "from 1.5 to 1.5, but must lie in 0 to 1.*without a normalization"),
        (np.full((2, 2), np.nan), "nan"),
        (np.full((2, 2), 256), "0 to 255"),
        (torch.full((1, 2, 2), -0.1), "from -0.1"),
        (np.zeros((2, 2, 5)), r"its shape is \(2, 2, 5\), which has 5 channels"),
        (np.zeros((2, 2, 2, 3)), "its shape"),
        (np.zeros((0, 2)), "its shape"),
        (np.array([["a"]]), "row 3"),
        (7, "row 3"),
        ([[[1], [2, 3]]], "row 3"),
    ],
)
def test_what_is_no_image_is_named_with_its_row(value, message):
    with pytest.raises(DataError, match=message) as raised:
        read_pixels(value, 3)
    assert str(raised.value).startswith("row 3: the image")


def test_huge_declared_image_is_refused():
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(DataError, match=r"row 1: .*decompression bomb"):
        read_pixels({"bytes": bomb, "path": None}, 1)


_SOUND = [
    encoded(PILImage.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)), kind)["bytes"]
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(_SOUND),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4),
    st.none() | st.integers(0, 10**6),
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_files_are_read_or_refused(sound, flips, length):
    damaged = bytearray(sound)
    for place, value in flips:
        damaged[place % len(damaged)] = value
    if length is not None:
        del damaged[length % len(damaged) :]
    # Whatever else is raised fails the test.
    with contextlib.suppress(DataError):
        pixels = read_pixels({"bytes": bytes(damaged), "path": None}, 0, size=(8, 8))
        assert pixels.shape in ((8, 8, 1), (8, 8, 3))
