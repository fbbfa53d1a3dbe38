"""`dd_plugin.data.augmentation`: what is done, to whom, and that gradients are exact."""

import math

import pytest
import torch
from torch.nn import functional as F

from dd_plugin.data.augmentation import Augmentation

NAMES = ["color", "crop", "cutout", "flip", "noise", "resizedcrop", "rotate", "scale", "shift"]


def batch(n=6, channels=3, height=8, width=10, dtype=torch.float64):
    return torch.rand(n, channels, height, width, dtype=dtype)


@pytest.mark.parametrize("name", [*NAMES, "dsa", "flip_rotate"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_seed_same_result(name, dtype):
    images = batch(dtype=dtype)
    augment = Augmentation(name)
    first = augment(images, 5)
    assert torch.equal(first, augment(images, 5))
    assert first.shape == images.shape
    assert first.dtype == dtype
    assert any(not torch.equal(first, augment(images, seed)) for seed in range(8))


@pytest.mark.parametrize("name", NAMES)
def test_dtypes_get_the_same_transformation(name):
    images = batch(dtype=torch.float32)
    augment = Augmentation(name)
    torch.testing.assert_close(
        augment(images, 1), augment(images.double(), 1).float(), atol=1e-5, rtol=1e-4
    )


def test_global_generator_is_left_alone():
    images, state = batch(), torch.get_rng_state()
    Augmentation("dsa", compose=True)(images, 0)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", ["+".join(NAMES), *NAMES])
def test_gradient_is_that_of_finite_differences(name):
    augment = Augmentation(name, compose=True, fill=(0.1, 0.2))
    images = batch(2, 2, 5, 6)
    assert torch.autograd.gradcheck(lambda x: augment(x, 3), images.requires_grad_())


@pytest.mark.parametrize("name", NAMES)
def test_groups_share_a_transformation(name):
    augment = Augmentation(name)
    image = batch(1)
    groups = torch.tensor([2, 0, 1, 2, 7, 0])
    result = augment(image.expand(6, -1, -1, -1), 4, groups=groups)
    assert torch.equal(result[0], result[3])
    assert torch.equal(result[1], result[5])
    # Another call with the same seed, other sizes of groups, other groups there and not there.
    other = augment(image.expand(3, -1, -1, -1), 4, groups=torch.tensor([1, 7, 2]))
    assert torch.equal(other[0], result[2])
    assert torch.equal(other[1], result[4])
    assert torch.equal(other[2], result[0])


@pytest.mark.parametrize("name", NAMES)
def test_groups_differ_from_each_other(name):
    image = batch(1).expand(40, -1, -1, -1)
    for groups in (None, torch.arange(40)):
        result = Augmentation(name)(image, 0, groups=groups)
        assert len(torch.unique(result.flatten(1), dim=0)) > 1


def test_number_of_groups_does_not_matter():
    image = batch(1)
    for top in (15, 16, 17, 300):
        result = Augmentation("rotate")(
            image.expand(2, -1, -1, -1), 0, groups=torch.tensor([3, top])
        )
        alone = Augmentation("rotate")(image, 0, groups=torch.tensor([3]))
        assert torch.equal(result[:1], alone)


def test_flip_mirrors_exactly_and_half_of_the_time():
    images = batch(2000, 1, 2, 3)
    result = Augmentation("flip")(images, 0)
    kept = (result == images).flatten(1).all(1)
    mirrored = (result == images.flip(3)).flatten(1).all(1)
    assert torch.equal(kept, ~mirrored)
    # Binomial with 2000 draws: standard deviation 22.
    assert abs(int(kept.sum()) - 1000) < 110


@pytest.mark.parametrize("name", ["crop", "shift"])
def test_moves_are_whole_pixels_up_to_an_eighth(name):
    # Each pixel has a value of its own; an eighth of 8 rows is 1, of 16 columns 2.
    image = torch.arange(8.0 * 16, dtype=torch.float64).view(1, 1, 8, 16) + 1
    results = Augmentation(name, fill=0.25)(image.expand(300, -1, -1, -1), 0)
    border = (2, 2, 1, 1)
    padded = (
        F.pad(image, border, "reflect") if name == "shift" else F.pad(image, border, value=0.25)
    )
    windows = {
        (dy, dx): padded[0, :, dy : dy + 8, dx : dx + 16] for dy in range(3) for dx in range(5)
    }
    seen = set()
    for result in results:
        matches = [move for move, window in windows.items() if torch.equal(window, result)]
        assert len(matches) == 1
        seen.update(matches)
    assert seen == set(windows)


def test_cutout_fills_a_rectangle_of_half_the_size():
    images = torch.ones(400, 2, 8, 6, dtype=torch.float64)
    result = Augmentation("cutout", fill=(0.25, 0.75))(images, 0)
    hidden = result[:, 0] == 0.25
    assert torch.equal(hidden, result[:, 1] == 0.75)
    assert torch.equal(result[:, 0][~hidden], torch.ones(int((~hidden).sum())).double())
    rows, columns = hidden.any(2), hidden.any(1)
    assert torch.equal(hidden, rows[:, :, None] & columns[:, None, :])
    # The centre is anywhere: whole rectangles are 4x3, at a border half of them remains.
    assert set(rows.sum(1).tolist()) == {2, 3, 4}
    assert set(columns.sum(1).tolist()) == {2, 3}


def test_colour_of_one_channel_has_no_saturation():
    # x -> level + (x + b - level) c with the mean kept up to b: an affine map with factor c.
    image = batch(1, 1)
    result = Augmentation("color")(image.expand(500, -1, -1, -1), 0)
    centred = image - image.mean()
    contrast = ((result - result.mean((1, 2, 3), keepdim=True)) / centred).flatten(1)
    torch.testing.assert_close(contrast, contrast[:, :1].expand_as(contrast))
    assert contrast.min() >= 0.5
    assert contrast.max() <= 1.5
    brightness = result.mean((1, 2, 3)) - image.mean()
    assert brightness.abs().max() <= 0.125
    assert brightness.max() - brightness.min() > 0.2


def test_colour_is_not_clamped():
    result = Augmentation("color")(torch.rand(200, 3, 4, 4), 0)
    assert result.min() < 0
    assert result.max() > 1


def test_saturation_scales_the_distance_from_gray():
    # Two pixels of opposite colour with the same gray: contrast and saturation multiply.
    image = torch.tensor([0.25, 0.75, 0.5, 0.75, 0.25, 0.5], dtype=torch.float64).view(1, 2, 3, 1)
    image = image.permute(0, 2, 1, 3)
    result = Augmentation("color")(image.expand(500, -1, -1, -1), 0)
    ratio = (result[:, 0, 0, 0] - result[:, 0, 1, 0]) / (0.25 - 0.75)
    assert ratio.min() >= 0
    assert 2 < ratio.max() <= 3  # 2 times 1.5 at most


def line(height, width, dx, dy):
    """The plane dx x + dy y in pixels from the centre: bilinear sampling reproduces it."""
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) - (height - 1) / 2,
        torch.arange(width, dtype=torch.float64) - (width - 1) / 2,
        indexing="ij",
    )
    return (dx * x + dy * y)[None, None]


def test_rotation_turns_about_the_centre():
    # At the middle pixels nothing comes from outside. A plane with slope (1, 0) has slope
    # (cos a, -sin a) after the turn.
    images = line(9, 13, 1.0, 0.0).expand(300, -1, -1, -1)
    result = Augmentation("rotate")(images, 0)
    along = (result[:, 0, 4, 7] - result[:, 0, 4, 5]) / 2
    across = (result[:, 0, 5, 6] - result[:, 0, 3, 6]) / 2
    torch.testing.assert_close(along**2 + across**2, torch.ones(300, dtype=torch.float64))
    angle = torch.atan2(across, along) * 180 / math.pi
    assert angle.abs().max() <= 15
    assert angle.min() < -14
    assert angle.max() > 14
    torch.testing.assert_close(result[:, 0, 4, 6], torch.zeros(300, dtype=torch.float64))


def test_scale_stretches_each_direction_by_itself():
    images = line(9, 13, 1.0, 10.0).expand(300, -1, -1, -1)
    result = Augmentation("scale")(images, 0)
    along = (result[:, 0, 4, 7] - result[:, 0, 4, 5]) / 2
    across = (result[:, 0, 5, 6] - result[:, 0, 3, 6]) / 20
    for factor in (along, across):
        assert factor.min() >= 1 / 1.2 - 1e-9
        assert factor.max() <= 1.2 + 1e-9
        assert factor.max() - factor.min() > 0.33
    assert (along - across).abs().max() > 0.1


def test_resized_crops_are_parts_inside_the_image():
    # Sampling a plane gives the place of the part exactly, but for the outermost half pixel.
    height, width = 40, 60
    x, y = line(height, width, 1.0, 0.0), line(height, width, 0.0, 1.0)
    images = torch.cat([x, y], 1).expand(400, -1, -1, -1)
    result = Augmentation("resizedcrop", fill=1e6)(images, 0)
    # Nothing comes from outside, not even a share of the fill.
    assert result[:, 0].abs().max() <= (width - 1) / 2 + 1e-6
    assert result[:, 1].abs().max() <= (height - 1) / 2 + 1e-6
    middle_x, middle_y = result[:, 0, 20, 29:31], result[:, 1, 19:21, 30]
    across, down = (middle_x[:, 1] - middle_x[:, 0]), (middle_y[:, 1] - middle_y[:, 0])
    area, ratio = across * down, across / down
    assert area.min() >= 0.35 * 0.99  # a side longer than the image's is cut to it
    assert area.min() < 0.4
    assert area.max() > 0.95
    assert area.max() <= 1 + 1e-9
    assert ratio.min() >= 3 / 4 - 1e-9
    assert ratio.max() <= 4 / 3 + 1e-9
    assert ratio.max() - ratio.min() > 0.4
    centers = torch.stack([middle_x.mean(1), middle_y.mean(1)], 1)
    room = torch.stack([(1 - across) * width / 2, (1 - down) * height / 2], 1)
    assert bool((centers.abs() <= room + 1e-6).all())
    assert centers.std(0).min() > 1


def test_noise_has_a_deviation_up_to_a_tenth_and_is_cut_off():
    images = batch(200, 3, 16, 16)
    noise = Augmentation("noise")(images, 0) - images
    deviations = noise.flatten(1).std(1)
    assert noise.abs().max() <= 0.3
    assert deviations.max() <= 0.11
    assert deviations.max() > 0.08
    assert deviations.min() < 0.02
    assert noise.mean().abs() < 1e-3
    # Channels and images have noise of their own.
    pairs = torch.corrcoef(torch.cat([noise[:20, 0], noise[:20, 1]]).flatten(1))
    assert pairs.fill_diagonal_(0).abs().max() < 0.35


def test_names_joined_by_plus_are_all_done():
    images = batch()
    joined = Augmentation("resizedcrop+flip+noise")
    assert (joined.names, joined.compose) == (("resizedcrop", "flip", "noise"), True)
    composed = Augmentation("resizedcrop_flip_noise", compose=True)
    assert torch.equal(joined(images, 3), composed(images, 3))
    with pytest.raises(ValueError, match=r"either by '_', .*, or by '\+', to do all, got 'flip\+c"):
        Augmentation("flip+color_crop")
    with pytest.raises(ValueError, match="each transformation once"):
        Augmentation("flip+flip")


def test_what_comes_in_has_the_fill():
    images = torch.full((50, 2, 6, 6), 0.5, dtype=torch.float64)
    result = Augmentation("rotate_scale_crop", compose=True, fill=(0.5, 0.1))(images, 0)
    torch.testing.assert_close(result[:, 0], images[:, 0])
    assert 0.1 <= result[:, 1].min() < 0.11


def test_one_transformation_per_call_unless_composed():
    image = torch.rand(1, 3, 8, 8, dtype=torch.float64).expand(20, -1, -1, -1)
    one, both = Augmentation("flip_color"), Augmentation("flip_color", compose=True)
    alone = {"flip": 0, "color": 0}
    for seed in range(20):
        result = one(image, seed)
        flips_only = all(
            torch.equal(r, i) or torch.equal(r, i.flip(2))
            for r, i in zip(result, image, strict=True)
        )
        alone["flip" if flips_only else "color"] += 1
    assert min(alone.values()) > 3
    result = both(image, 0)
    assert not torch.allclose(result[0], image[0])
    assert repr(both) == "Augmentation('flip_color', compose=True)"


def test_the_strategy_of_dsa():
    strategy = ("color", "crop", "cutout", "flip", "scale", "rotate")
    assert Augmentation("dsa").names == strategy


@pytest.mark.parametrize("names", ["", "none", "None"])
def test_no_augmentation(names):
    images = batch()
    assert Augmentation(names)(images, 0) is images


def test_no_images():
    images = torch.empty(0, 3, 8, 8)
    groups = torch.empty(0, dtype=torch.int64)
    assert Augmentation("dsa")(images, 0, groups=groups).shape == (0, 3, 8, 8)


def test_unknown_name_lists_what_there_is():
    with pytest.raises(
        ValueError, match=r"color, crop, cutout, .*'rotation' \(did you mean 'rotate'\?\)"
    ):
        Augmentation("flip_rotation")
    with pytest.raises(ValueError, match="each transformation once"):
        Augmentation("flip_flip")


@pytest.mark.parametrize(
    ("images", "groups", "error", "text"),
    [
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), None, TypeError, "uint8; divide bytes"),
        (torch.zeros(3, 4, 4), None, ValueError, r"got shape \(3, 4, 4\)"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(3, dtype=torch.int64), ValueError, "2 integers"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2), ValueError, "got torch.float32"),
        (torch.zeros(2, 3, 4, 4), torch.tensor([0, -1]), ValueError, "negative, got -1"),
    ],
)
def test_wrong_arguments(images, groups, error, text):
    with pytest.raises(error, match=text):
        Augmentation("flip")(images, 0, groups=groups)


def test_fill_for_other_channels():
    with pytest.raises(ValueError, match="one for each of 1 channels, got 3"):
        Augmentation("crop", fill=(0.1, 0.2, 0.3))(torch.zeros(2, 1, 4, 4), 0)


@pytest.mark.parametrize("names", ["flip", "dsa", "flip+rotate+noise", "none"])
@pytest.mark.parametrize("grouped", [False, True])
def test_parts_with_a_seed_each_are_what_they_are_alone(names, grouped):
    augmentation, seeds = Augmentation(names, fill=0.3), [4, 1, 9, 1]
    images = torch.rand(12, 3, 8, 8, dtype=torch.float64)
    groups = torch.tensor([0, 1, 1, 2, 0, 0, 1, 2, 2, 0, 1, 2]) if grouped else None
    together = augmentation.of_parts(images, seeds, groups=groups)
    for part, seed in enumerate(seeds):
        rows = slice(3 * part, 3 * part + 3)
        alone = augmentation(images[rows], seed, groups=None if groups is None else groups[rows])
        assert torch.equal(together[rows], alone)


def test_images_that_cannot_be_divided_into_parts_are_refused():
    with pytest.raises(ValueError, match="7 images cannot be divided into 2 parts"):
        Augmentation("flip").of_parts(torch.rand(7, 3, 4, 4), [0, 1])
