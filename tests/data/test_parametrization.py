import pytest
import torch

from dd_plugin.data.parametrization import (
    PARAMETRIZATIONS,
    Pixels,
    Pyramid,
    Upsampled,
    UpsampledPyramid,
)


@pytest.mark.parametrize("name", sorted(PARAMETRIZATIONS))
def test_images_stay_in_the_range_of_a_png_after_a_hostile_step(name):
    made = PARAMETRIZATIONS[name](torch.rand(3, 2, 8, 8))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 10)
    made.constrain_()
    images = made().detach()
    assert images.shape == (3, 2, 8, 8)
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1


@pytest.mark.parametrize("name", sorted(PARAMETRIZATIONS))
def test_images_can_be_told_what_to_show(name):
    made = PARAMETRIZATIONS[name](torch.rand(4, 2, 8, 8, dtype=torch.float64))
    before = made.stored().detach().clone()
    shown = torch.rand_like(before[:2]) * 0.9 + 0.05
    made.show_(torch.tensor([3, 1]), shown)
    torch.testing.assert_close(made.stored().detach()[[3, 1]], shown)
    assert torch.equal(made.stored().detach()[[0, 2]], before[[0, 2]])


def test_an_upsampled_pyramid_is_a_pyramid_of_what_is_stored():
    images = torch.rand(4, 3, 8, 12, dtype=torch.float64) * 0.9 + 0.05
    basis = torch.eye(3, dtype=torch.float64).roll(1, 0)
    made = UpsampledPyramid(images, 2, 2, basis)
    plain = Upsampled(images, 2)
    torch.testing.assert_close(made(), plain())
    assert [level.shape[-2:] for level in made.small.levels] == [(2, 3), (4, 6)]
    assert torch.equal(Upsampled.of_stored(made.stored(), made.factor)(), made())
    # Its gradient reaches every level.
    (made() ** 2).sum().backward()
    assert all(bool(level.grad.abs().sum() > 0) for level in made.small.levels)
    small = Pyramid(plain.pixels.detach(), 2, basis)
    torch.testing.assert_close(small(), made.stored())
    with pytest.raises(ValueError, match="must divide"):
        UpsampledPyramid(images, 3)
    with pytest.raises(ValueError, match="`pyramid_levels` must be from 1 to 3"):
        UpsampledPyramid(images, 2, 4)


def test_pixels_start_at_the_images():
    images = torch.rand(2, 1, 4, 4)
    assert torch.equal(Pixels(images)(), images)


def test_upsampled_images_take_a_quarter_of_the_storage():
    images = torch.full((4, 1, 8, 8), 0.25)
    made = Upsampled(images, 2)
    assert sum(p.numel() for p in made.parameters()) * 4 == images.numel()
    assert torch.allclose(made(), images)


def test_what_is_stored_gives_the_same_images_bit_for_bit():
    made = Upsampled(torch.rand(6, 2, 9, 12), 3)
    again = Upsampled.of_stored(made.pixels, made.factor)
    assert again.pixels.shape == (6, 2, 3, 4)
    assert torch.equal(again(), made())
    assert (made.factor, Pixels(made()).factor) == (3, 1)


def test_a_factor_that_does_not_divide_the_size():
    with pytest.raises(ValueError, match="must divide the size of the images, 8 x 9, got 2"):
        Upsampled(torch.rand(1, 1, 8, 9), 2)
