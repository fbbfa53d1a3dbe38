"""Images resampled by affine maps: where pixels come from, and an exact way to sample them."""

import torch

from dd_plugin.data import resampling
from dd_plugin.data.resampling import AffineMap, resample, sample_by_gather


def batch(n=3, channels=3, height=8, width=10):
    return torch.rand(n, channels, height, width, dtype=torch.float64)


def test_sampling_by_gather_is_grid_sample():
    images = batch().requires_grad_()
    grid = torch.rand(3, 8, 10, 2, dtype=torch.float64) * 2.6 - 1.3
    expected = resampling._grid_sample(images, grid)
    torch.testing.assert_close(sample_by_gather(images, grid), expected)
    weights = torch.rand_like(expected)
    slopes = [
        torch.autograd.grad((sample(images, grid) * weights).sum(), images)[0]
        for sample in (sample_by_gather, resampling._grid_sample)
    ]
    torch.testing.assert_close(*slopes)


def test_each_number_of_a_map_has_its_place():
    images = batch(1, height=6, width=6)
    one, fill = torch.ones(1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(resample(images, AffineMap(-one, one), fill), images.flip(3))
    zero = 0 * one
    turned = resample(images, AffineMap(zero, zero, xy=one, yx=one), fill)
    torch.testing.assert_close(turned, images.mT)
    # The width is 2, of six pixels: a third of it is two of them.
    right = resample(images, AffineMap(one, one, x=2 * one / 3), fill + 0.25)
    torch.testing.assert_close(right[..., :4], images[..., 2:])
    torch.testing.assert_close(right[..., 4:], torch.full_like(right[..., 4:], 0.25))
    down = resample(images, AffineMap(one, one, y=2 * one / 3), fill)
    torch.testing.assert_close(down[:, :, :4], images[:, :, 2:])


def test_places_over_the_largest_coordinates_are_moved_to_them():
    images = batch(1, height=6, width=6)
    one, fill = torch.ones(1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    last = torch.tensor([5 / 6, 5 / 6], dtype=torch.float64)  # centers of the outermost pixels
    moved = resample(images, AffineMap(one, one, x=2 * one / 3), fill, most=last)
    torch.testing.assert_close(moved[..., :4], images[..., 2:])
    torch.testing.assert_close(moved[..., 4:], images[..., -1:].expand(-1, -1, -1, 2))
