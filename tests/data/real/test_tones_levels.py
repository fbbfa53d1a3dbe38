"""Gray levels: any number of bits fills the range, and a small part of it is refused."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from dd_plugin.data.real.columns import DataError
from dd_plugin.data.real.dataset import RealData
from dd_plugin.data.real.loading import load_real
from tests.data.tables import images, table


def levels(real):
    """How many gray levels a data set has."""
    return len(torch.cat([batch for batch, _ in real.batches(64)]).unique())


def write(folder, values, kind="tiff"):
    """One file per image, of two classes."""
    for number, each in enumerate(values):
        path = folder / "ab"[number % 2] / f"{number}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        PILImage.fromarray(each).save(path)
    return folder


def noise(high, low=0, count=6, seed=0):
    return np.random.default_rng(seed).integers(low, high + 1, (count, 32, 32)).astype(np.uint16)


@pytest.mark.parametrize("bits", [8, 9, 12, 15, 16])
@pytest.mark.parametrize("kind", ["tiff", "png"])
def test_any_number_of_bits_fills_the_range(tmp_path, bits, kind):
    white = 2**bits - 1
    values = noise(white)
    values[0] //= 4  # the first image is dark, and stays so
    values[5, 0, 0] = white
    real = load_real(write(tmp_path, values, kind))
    assert real.white_level == white
    batch = torch.cat([part for part, _ in real.batches(6)])
    order = [0, 2, 4, 1, 3, 5]  # sorted by class
    expected = torch.from_numpy(values[order].astype(np.float64) / white)[:, None]
    torch.testing.assert_close(batch.double(), expected, atol=0.5 / 255 + 1e-6, rtol=0)
    assert levels(real) == 256


@pytest.mark.parametrize("holder", ["arrays", "tensors", "Pillow", "table", "stream", "on demand"])
def test_twelve_bits_in_any_holder(holder):
    values = noise(4095)
    labels = [0, 1] * 3
    options = {}
    if holder == "arrays":
        data = list(zip(values, labels, strict=True))
    elif holder == "tensors":
        data = [(torch.from_numpy(each), label) for each, label in zip(values, labels, strict=True)]
    else:
        pictures = [PILImage.fromarray(each) for each in values]
        data = list(zip(pictures, labels, strict=True))
        if holder in ("table", "stream"):
            data = table(values, labels)
        if holder == "stream":
            data, options = data.to_iterable_dataset(), {"buffer_size": 4}
        elif holder == "on demand":
            options = {"max_bytes": 100}
    real = RealData.from_dataset(data, **options)
    assert real.white_level == 4095
    assert levels(real) == 256


def test_a_test_set_is_as_bright_as_the_training_set(tmp_path):
    write(tmp_path / "train", noise(4095))
    write(tmp_path / "test", noise(1000))
    train = load_real(tmp_path, "train")
    test = load_real(tmp_path, "test", class_names=train.class_names, white_level=train.white_level)
    assert test.white_level == 4095
    assert next(test.batches(9))[0].max() < 0.25
    assert load_real(tmp_path, "test").white_level == 1023
    with pytest.raises(
        DataError, match=r"reach 40.., but the white of this data set is 1023: .*`wh"
    ):
        load_real(tmp_path, "train", white_level=1023)
    for bad in (0, -1, 65536):
        with pytest.raises(ValueError, match="`white_level` must lie in 1 to 65535"):
            load_real(tmp_path, "train", white_level=bad)


def test_images_after_the_first_ones_of_a_stream_may_not_be_deeper():
    values = np.concatenate([noise(1023), noise(4095)])
    data = table(values, [0, 1] * 6).to_iterable_dataset()
    real = RealData.from_dataset(data, buffer_size=6)
    with pytest.raises(DataError, match=r"row \d+: .* reach \d+, but the white .* is 1023"):
        list(real.batches(4))


def test_eight_bits_beside_more(tmp_path):
    write(tmp_path, [*noise(4095)[:2], *noise(255).astype(np.uint8)[:2]])
    real = load_real(tmp_path)
    assert real.white_level == 4095
    assert (
        load_real(write(tmp_path / "8", noise(255).astype(np.uint8)), "train").white_level is None
    )


def test_a_small_part_of_the_range_is_refused():
    # Hounsfield units with an offset: 1,000 values of 65,536 would be four gray levels.
    offset = [(each, row % 2) for row, each in enumerate(noise(33_768, low=32_768))]
    with pytest.raises(DataError, match=r"between 32768 and 33\d+, a small part .* 4 of 256 gray"):
        RealData.from_dataset(offset)
    for high in (1 / 255, 1 / 16, 0.1):
        real_numbers = [
            (torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(row)) * high, row % 2)
            for row in range(6)
        ]
        for options in ({}, {"max_bytes": 100}):
            with pytest.raises(DataError, match="stretch them to the full range first: 0 to 1"):
                RealData.from_dataset(real_numbers, **options)
    # Half of the range is a matter of taste.
    RealData.from_dataset([(image * 0.5 / high, label) for image, label in real_numbers])


@pytest.mark.parametrize("scale", [1, 16, 31])
def test_few_levels_that_were_no_more_are_taken(scale):
    # Pixels k / 255, as `ToTensor` gives them of dark images, lose nothing.
    values = images(6, (32, 32)) % (scale + 1)
    dark = [(torch.from_numpy(each)[None] / 255, row % 2) for row, each in enumerate(values)]
    assert levels(RealData.from_dataset(dark)) == scale + 1
    constant = [(torch.full((1, 4, 4), 0.1 + 0.01 * row), row % 2) for row in range(4)]
    RealData.from_dataset(constant)


def deep_color_png(values):
    """A PNG of 16 bits per channel, which Pillow reads and does not write."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_color_of_sixteen_bits_that_pillow_cuts(channels):
    def data(high):
        values = np.random.default_rng(0).integers(0, high + 1, (4, 8, 8, channels))
        if channels != 3:
            values[..., -1] = 65535
        return [(deep_color_png(each), row % 2) for row, each in enumerate(values)]

    assert levels(RealData.from_dataset(data(65535))) > 100
    with pytest.raises(DataError, match="images of 16 bits per channel fill a small part"):
        RealData.from_dataset(data(4095))
