"""Opacity, channels and gray levels: all that an image shows is kept, or refused by name."""

import io
import struct
import warnings

import numpy as np
import pytest
import torch
from datasets import Array3D, ClassLabel, Dataset, Features
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image as PILImage

from dd_plugin.data.real.columns import DataError
from dd_plugin.data.real.dataset import RealData
from dd_plugin.data.real.pixels import read_pixels
from dd_plugin.data.real.tones import paint
from tests.data.tables import images, table


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# --- channels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 4, 5, 6, 13])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, np.float32, bool])
@pytest.mark.parametrize("size", [(5, 6), (3, 5), (5, 3), (1, 8), (8, 1)])
def test_channels_that_no_image_has_are_refused(count, dtype, size):
    pixels = np.ones((*size, count), dtype=dtype)
    tensor = torch.from_numpy(pixels.astype(np.int32) if dtype is np.uint16 else pixels)
    # A tensor of any height is never taken for one with the channels last.
    with pytest.raises(DataError, match=f"which has {count} channels.*the three that are to be"):
        read_pixels(tensor.permute(2, 0, 1), 0)
    for holder in (pixels, pixels.tolist()):
        if count in (2, 4) or size[0] not in (1, 3):
            with pytest.raises(DataError, match=f"which has {count} channels"):
                read_pixels(holder, 0)


@pytest.mark.parametrize("count", [2, 4, 5])
def test_channels_first_are_counted(count):
    with pytest.raises(DataError, match=f"which has {count} channels"):
        read_pixels(np.zeros((count, 28, 28)), 0)


@pytest.mark.parametrize("count", [2, 4, 5])
@pytest.mark.parametrize("kind", ["sequence", "table", "stream"])
def test_data_sets_of_more_channels_are_refused(count, kind):
    pixels = images(6, (5, 6, count))
    if kind == "sequence":
        data = [
            (torch.from_numpy(each).permute(2, 0, 1) / 255, i % 2) for i, each in enumerate(pixels)
        ]
    else:
        features = Features(
            image=Array3D((5, 6, count), "uint8"), label=ClassLabel(names=["a", "b"])
        )
        columns = {"image": list(pixels), "label": [0, 1] * 3}
        data = Dataset.from_dict(columns, features=features)
        data = data.to_iterable_dataset() if kind == "stream" else data
    with pytest.raises(DataError, match=f"row 0: .* has {count} channels"):
        RealData.from_dataset(data)


def tiff(samples, extra=(), photometric=2, pages=1, dtype=np.uint8):
    """A TIFF of so many samples per pixel, 2 x 2, which Pillow itself would not write."""
    body = bytes(np.arange(4 * samples, dtype=dtype).tobytes())
    tags = [
        (256, 3, [2]), (257, 3, [2]), (258, 3, [8 * dtype().itemsize] * samples),
        (259, 3, [1]), (262, 3, [photometric]), (273, 4, [8]), (277, 3, [samples]),
        (278, 3, [2]), (279, 4, [len(body)]),
    ]  # fmt: skip
    if extra:
        tags.append((338, 3, list(extra)))
    start = 8 + len(body)
    after = start + 2 + 12 * len(tags) + 4
    entries, more = b"", b""
    for tag, kind, values in tags:
        packed = struct.pack("<" + {3: "H", 4: "I"}[kind] * len(values), *values)
        if len(packed) > 4:
            where = struct.pack("<I", after + len(more))
            more += packed
        else:
            where = packed.ljust(4, b"\0")
        entries += struct.pack("<HHI", tag, kind, len(values)) + where
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", start) + body + directory + more


def test_a_file_of_which_pillow_reads_some_channels_is_refused():
    assert read_pixels(tiff(3), 0).shape == (2, 2, 3)
    for file, count in ((tiff(4, extra=(0,)), 4), (tiff(5, extra=(0, 0)), 5), (tiff(4), 4)):
        with pytest.raises(DataError, match=f"it has {count} channels"):
            read_pixels(file, 0)
    with pytest.raises(DataError, match="2 channels"):
        read_pixels(tiff(2, extra=(0,), photometric=1), 0)
    # The last one is opacity.
    assert read_pixels(tiff(4, extra=(2,)), 0).shape == (2, 2, 3)


def test_pages_are_not_dropped():
    page = PILImage.new("L", (2, 2), 7)
    with pytest.raises(DataError, match="it has 3 pages"):
        read_pixels(encoded(page, "TIFF", save_all=True, append_images=[page, page]), 0)
    assert read_pixels(encoded(page, "TIFF"), 0).shape == (2, 2, 1)
    # Small copies of the same picture are none to miss; and who opened a page wants that one.
    small = page.copy()
    small.encoderinfo = {"tiffinfo": {254: 1}}
    file = encoded(page, "TIFF", save_all=True, append_images=[small])
    assert read_pixels(file, 0).shape == (2, 2, 1)
    pages = encoded(page, "TIFF", save_all=True, append_images=[PILImage.new("L", (2, 2), 9)])
    opened = PILImage.open(io.BytesIO(pages))
    opened.seek(1)
    assert read_pixels(opened, 0)[0, 0, 0] == 9


# --- opacity ------------------------------------------------------------------------------------


def half(mode, color, opacity=255):
    """The left half shows a color, the right half is transparent."""
    image = PILImage.new("RGBA", (4, 2), (*color, 0))
    image.paste((*color, opacity), (0, 0, 2, 2))
    if mode == "PA":
        palette = PILImage.new("P", (4, 2), 1)
        palette.putpalette([0, 0, 0, *color])
        made = palette.convert("PA")
        made.putalpha(image.getchannel("A"))
        return made
    if mode == "La":
        return image.convert("LA").convert("La")
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["LA", "La", "RGBA", "RGBa", "PA"])
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_what_is_transparent_is_white(mode, channels):
    pixels = read_pixels(half(mode, (0, 0, 0)), 0, channels=channels)
    assert (pixels[:, :2] == 0).all()
    assert (pixels[:, 2:] == 255).all()
    assert pixels.shape[2] == (channels or (1 if mode in ("LA", "La") else 3))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_opacity_of_files(mode, kind):
    file = encoded(half(mode, (0, 0, 0)), kind, **({"lossless": True} if kind == "WEBP" else {}))
    pixels = read_pixels(file, 0)
    assert (pixels[0, 0].max(), pixels[0, 3].min()) == (0, 255)


def test_one_color_or_a_palette_may_be_transparent():
    def halves(image, **options):
        pixels = read_pixels(encoded(image, **options), 0)
        return pixels[0, 0].tolist(), pixels[0, 3].tolist()

    gray = PILImage.new("L", (4, 2), 10)
    gray.paste(90, (2, 0, 4, 2))
    assert halves(gray, transparency=90) == ([10], [255])
    color = PILImage.merge("RGB", [gray, gray, gray])
    assert halves(color, transparency=(90, 90, 90)) == ([10] * 3, [255] * 3)
    palette = PILImage.new("P", (4, 2), 0)
    palette.paste(1, (2, 0, 4, 2))
    palette.putpalette([10, 20, 30, 90, 90, 90])
    assert halves(palette, transparency=1) == ([10, 20, 30], [255] * 3)
    assert halves(palette, transparency=b"\xff\x80") == ([10, 20, 30], [172] * 3)
    assert halves(palette, kind="GIF", transparency=1) == ([10, 20, 30], [255] * 3)
    deep = PILImage.fromarray(np.array([[257, 514, 65535, 65535]] * 2, dtype=np.uint16))
    assert halves(deep, transparency=514)[0] == [1]
    assert read_pixels(encoded(deep, transparency=514), 0)[0, :, 0].tolist() == [1, 255, 255, 255]


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (250, 250, 250), (128, 128, 128)])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_icons_that_are_drawn_in_opacity_alone_stay_different(color, mode):
    shapes = [np.roll(np.eye(6, dtype=np.uint8), step, 1) * 255 for step in range(4)]
    data = []
    for label, shape in enumerate(shapes):
        icon = PILImage.new("RGB", (6, 6), color).convert("RGBA")
        icon.putalpha(PILImage.fromarray(shape))
        data.append((icon.convert(mode), label % 2))
    batch, _ = next(RealData.from_dataset(data).batches(4))
    assert len(torch.unique(batch, dim=0)) == 4
    # One color and one background, whatever the shape.
    assert len(batch.unique()) == 2
    assert (batch.amax() - batch.amin()).item() > 0.4


def test_what_is_transparent_everywhere_shows_its_colors():
    image = PILImage.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert read_pixels(encoded(image), 0)[0, 0].tolist() == [10, 20, 30]


@given(
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 4), st.just(3))), st.data()
)
@settings(max_examples=50, deadline=None)
def test_painting_is_the_mean_by_opacity(color, data):
    opacity = data.draw(arrays.arrays(np.uint8, color.shape[:2]))
    painted = paint(color, opacity).astype(float)
    share = opacity[..., None] / 255
    if opacity.max() == 0:
        share = np.ones_like(share)
    on = [color * share + (1 - share) * background for background in (255, 0)]
    errors = [np.abs(painted - each).max() for each in on]
    assert min(errors) <= 0.5
    # Black only where white shows little.
    if errors[0] > 0.5:
        assert on[0].max() - on[0].min() < 33


# --- modes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "HSV", "RGBX", "P", "1"])
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_other_modes_keep_dark_and_bright(mode, channels):
    image = PILImage.new("RGB", (4, 2), (0, 0, 0))
    image.paste((255, 255, 255), (2, 0, 4, 2))
    if mode == "LAB":
        lightness = image.convert("L")
        middle = PILImage.new("L", (4, 2), 128)
        image = PILImage.merge("LAB", [lightness, middle, middle])
    else:
        image = image.convert(mode)
    pixels = read_pixels(image, 0, channels=channels)
    assert pixels[:, :2].max() < 10
    assert pixels[:, 2:].min() > 245


def test_a_fourth_channel_beside_colors_is_refused():
    bands = [PILImage.new("L", (2, 2), 9)] * 3
    infrared = PILImage.fromarray(np.array([[1, 2], [3, 4]], dtype=np.uint8))
    with pytest.raises(DataError, match="it has 4 channels"):
        read_pixels(PILImage.merge("RGBX", [*bands, infrared]), 0)


def test_nothing_is_said_of_ordinary_images():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert RealData.from_dataset(table(images(6, (4, 5, 3)))).white_level is None
