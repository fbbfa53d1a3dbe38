import pytest
import torch

from dd_plugin.data.parametrization import PARAMETRIZATIONS, Pixels, Upsampled


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
