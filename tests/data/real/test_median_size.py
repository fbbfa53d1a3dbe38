"""`dd_plugin.data.real.median_size`: the size of images that differ in size."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from dd_plugin.data import DataError, RealData
from dd_plugin.data.real.median_size import median_size, sampled_rows


@pytest.mark.parametrize(
    ("sides", "size"), [((20, 30, 40), 32), ((3, 4), 8), ((900, 700), 64), ((43, 43), 40)]
)
def test_the_median_of_the_shorter_sides_is_rounded_to_a_multiple_of_8(sides, size):
    images = [np.zeros((side, 2 * side), np.uint8) for side in sides]
    assert median_size(images, range(len(images)), 64) == size


def test_images_of_any_kind_have_a_size():
    image = Image.new("RGB", (16, 24))
    file = io.BytesIO()
    image.save(file, "PNG")
    encoded = {"bytes": file.getvalue(), "path": None}
    kinds = [image, encoded, file.getvalue(), np.asarray(image), torch.zeros(3, 24, 16)]
    for kind in kinds:
        assert median_size([kind], [0], 64) == 16


def test_a_damaged_image_is_named():
    with pytest.raises(DataError, match="row 7: the image cannot be read"):
        median_size([b"no image"], [7], 64)


def test_rows_of_a_large_data_set_stand_for_all():
    assert sampled_rows(10) == list(range(10))
    rows = sampled_rows(50_000)
    assert len(rows) == 1_000
    assert rows[-1] > 49_000


def test_real_data_choose_a_size_only_if_they_may():
    images = [(np.full((side, side), side, np.uint8), side % 2) for side in (20, 21, 22, 23)]
    with pytest.raises(DataError, match="images differ in size"):
        RealData.from_dataset(images)
    chosen = RealData.from_dataset(images, largest_size=64)
    assert (chosen.shape, chosen.sizes_differ) == ((1, 24, 24), True)
    smaller = RealData.from_dataset(images, largest_size=16)
    assert smaller.shape == (1, 16, 16)
    assert not RealData.from_dataset(images, image_size=8, largest_size=64).sizes_differ
