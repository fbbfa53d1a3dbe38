"""`dd_plugin.data.colors`: what the directions are, against closed forms."""

import pytest
import torch

from dd_plugin.data.colors import color_covariance, decorrelating_basis

# Orthonormal: gray, blue against red, green against both.
AXES = torch.tensor([[1.0, 1, 1], [1, 0, -1], [1, -2, 1]], dtype=torch.float64)
AXES = AXES / AXES.norm(dim=1, keepdim=True)


def images_along(deviations, count=4, size=8):
    """Images whose coordinates along `AXES` have these deviations, exactly uncorrelated."""
    coordinates = torch.randn(3, count * size * size, dtype=torch.float64)
    coordinates -= coordinates.mean(1, keepdim=True)
    # The rows of vt are orthonormal, and orthogonal to a constant as those of the input were.
    rows = torch.linalg.svd(coordinates, full_matrices=False)[2] * (count * size * size) ** 0.5
    pixels = AXES.mT @ (torch.tensor(deviations, dtype=torch.float64)[:, None] * rows) + 0.5
    return pixels.view(3, count, size, size).transpose(0, 1)


def test_the_directions_are_the_principal_ones_with_their_deviations():
    basis = decorrelating_basis(images_along([0.1, 0.05, 0.02]))
    # Lengths √3 (1, 0.5, 0.2); the largest component is positive.
    expected = AXES * torch.tensor([[1.0], [0.5], [0.2]], dtype=torch.float64) * 3**0.5
    for column, direction in zip(basis.mT, expected, strict=True):
        assert torch.allclose(column, direction, atol=1e-6) or torch.allclose(
            column, -direction, atol=1e-6
        )
    largest = basis.gather(0, basis.abs().argmax(0)[None])
    assert bool((largest > 0).all())
    # A unit of gray is a unit of each channel.
    torch.testing.assert_close(basis[:, 0], torch.ones(3, dtype=torch.float64))


def test_coordinates_of_the_images_are_uncorrelated_with_equal_variances():
    images = images_along([0.12, 0.06, 0.03]) @ torch.eye(8, dtype=torch.float64)
    inverse = torch.linalg.inv(decorrelating_basis(images))
    covariance = color_covariance(torch.einsum("dc,nchw->ndhw", inverse, images))
    # Gray has variance 3 * 0.12² per √3² of length... all have (0.12)² / 3.
    torch.testing.assert_close(covariance, torch.eye(3, dtype=torch.float64) * 0.12**2 / 3)


def test_covariance_is_that_of_all_pixels():
    images = torch.rand(1500, 3, 2, 2)  # more than are read at a time
    pixels = images.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(color_covariance(images), torch.cov(pixels, correction=0))


def test_gray_images_stored_in_color_have_a_way_back():
    basis = decorrelating_basis(torch.rand(5, 1, 8, 8).expand(-1, 3, -1, -1))
    torch.testing.assert_close(basis[:, 0], torch.ones(3, dtype=torch.float64))
    lengths = basis.norm(dim=0) / 3**0.5
    torch.testing.assert_close(lengths, torch.tensor([1.0, 0.1, 0.1], dtype=torch.float64))
    assert torch.linalg.cond(basis) < 10.001


@pytest.mark.parametrize("images", [torch.rand(3, 1, 4, 4), torch.full((3, 3, 4, 4), 0.3)])
def test_no_colors_to_speak_of(images):
    channels = images.shape[1]
    assert torch.equal(decorrelating_basis(images), torch.eye(channels, dtype=torch.float64))


def test_no_images():
    with pytest.raises(ValueError, match="must have at least one image"):
        decorrelating_basis(torch.rand(0, 3, 4, 4))
