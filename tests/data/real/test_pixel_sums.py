"""Statistics of 8-bit pixels: exact, however the images come in batches."""

import numpy as np
import pytest
import torch

from dd_plugin.data.real.columns import DataError
from dd_plugin.data.real.dataset import RealData
from dd_plugin.data.real.pixel_sums import class_means, mean_std
from tests.data.tables import images, table


def test_class_means_and_mean_std():
    pixels = images(30, (4, 5, 3))
    real = RealData.from_dataset(table(pixels))
    values = pixels.astype(np.float64) / 255
    expected = np.stack([values[label::3].mean(0) for label in range(3)])
    np.testing.assert_allclose(real.class_means().permute(0, 2, 3, 1), expected, rtol=1e-6)
    halves = np.stack([values[label + 3 * i :: 6].mean(0) for label in range(3) for i in (0, 1)])
    np.testing.assert_allclose(real.class_means(2).permute(0, 2, 3, 1), halves, rtol=1e-6)
    with pytest.raises(DataError, match="10"):
        real.class_means(11)
    mean, std = real.mean_std()
    np.testing.assert_allclose(mean, values.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, values.std((0, 1, 2)), rtol=1e-12)


def test_one_pixel_of_many_is_in_the_deviation():
    # A share p of pixels is one level above the others, 255: the deviation is that of a coin,
    # sqrt(p (1 - p)) levels, and float32 sums of squares would lose it.
    pixels = torch.full((500, 1, 40, 50), 254, dtype=torch.uint8)
    pixels[3, 0, 7, 11] = 255
    p = 1 / pixels.numel()
    for size in (500, 7):
        mean, std = mean_std(pixels.split(size))
        assert mean == pytest.approx([(254 + p) / 255], rel=1e-15)
        assert std == pytest.approx([(p * (1 - p)) ** 0.5 / 255], rel=1e-12)


@pytest.mark.parametrize("size", [1, 4, 30])
def test_the_images_of_a_class_go_to_its_parts_in_turn(size):
    pixels = torch.from_numpy(images(30)[:, None])
    labels = torch.tensor([0, 0, 1, 0, 2]).repeat(6)
    batches = zip(pixels.split(size), labels.split(size), strict=True)
    means, counts = class_means(batches, (1, 4, 5), 3, 2)
    assert counts.tolist() == [18, 6, 6]
    for label in range(3):
        of_class = pixels[labels == label].double() / 255
        for part in range(2):
            expected = of_class[part::2].mean(0).float()
            assert torch.equal(means[2 * label + part], expected)
