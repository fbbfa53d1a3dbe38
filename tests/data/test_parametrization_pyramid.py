"""`Pyramid`: where it starts, where it stays, what it learns first, and exact gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from dd_plugin.data.colors import decorrelating_basis
from dd_plugin.data.parametrization import Pixels, Pyramid
from dd_plugin.data.stored_sizes import level_sizes
from dd_plugin.hub.folder import to_bytes

SHAPES = [(3, 8, 8), (1, 28, 28), (3, 7, 12), (2, 1, 5), (3, 33, 20)]


def made_of(images, levels=None, *, decorrelated=False):
    return Pyramid(images, levels, decorrelating_basis(images) if decorrelated else None)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("decorrelated", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_starts_at_the_images_in_8_bits(shape, decorrelated, dtype):
    images = torch.randint(0, 256, (4, *shape)).to(dtype) / 255
    images[0] = 0.0
    images[1] = 1.0
    made = made_of(images, decorrelated=decorrelated)
    assert made().dtype == dtype
    assert torch.equal(to_bytes(made().detach()), to_bytes(images))
    made.constrain_()
    assert torch.equal(to_bytes(made().detach()), to_bytes(images))


@given(
    shape=st.sampled_from(SHAPES),
    decorrelated=st.booleans(),
    magnitude=st.floats(-3, 30),
    seed=st.integers(0, 1 << 20),
)
def test_images_stay_in_the_range_whatever_the_parameters_are(shape, decorrelated, magnitude, seed):
    generator = torch.Generator().manual_seed(seed)
    made = made_of(torch.rand(2, *shape, generator=generator), decorrelated=decorrelated)
    with torch.no_grad():
        for level in made.levels:
            level.copy_(torch.randn(level.shape, generator=generator) * 10**magnitude)
    for _ in range(2):
        images = made().detach()
        assert bool(images.isfinite().all())
        assert float(images.min()) >= 0
        assert float(images.max()) <= 1
        made.constrain_()
    # Afterwards no gradient is dead: the slope at a logit of 8 is 3e-4.
    images = made().detach()
    assert float((images * (1 - images)).min()) > 2e-4


def test_constraining_moves_nothing_that_is_in_range():
    made = made_of(torch.rand(3, 3, 16, 16), decorrelated=True)
    before = [level.detach().clone() for level in made.levels]
    made.constrain_()
    assert all(map(torch.equal, before, made.levels))


@pytest.mark.parametrize("decorrelated", [False, True])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_gradient_is_that_of_finite_differences(decorrelated, levels):
    made = made_of(torch.rand(2, 3, 5, 6, dtype=torch.float64), levels, decorrelated=decorrelated)
    names = [f"levels.{index}" for index in range(levels)]

    def images(*values):
        return torch.func.functional_call(made, dict(zip(names, values, strict=True)), ())

    parameters = [level.detach().clone().requires_grad_() for level in made.levels]
    assert torch.autograd.gradcheck(images, parameters)


def test_the_images_are_the_formula():
    images = torch.rand(2, 3, 9, 12, dtype=torch.float64)
    basis = torch.rand(3, 3, dtype=torch.float64) + torch.eye(3, dtype=torch.float64)
    made = Pyramid(images, 3, basis)
    with torch.no_grad():
        for level in made.levels:
            level.normal_()
    total = sum(
        F.interpolate(level, (9, 12), mode="bilinear", align_corners=False) for level in made.levels
    )
    expected = torch.sigmoid(4 * torch.einsum("dc,nchw->ndhw", basis, total) / 3)
    torch.testing.assert_close(made(), expected)


def test_coarse_levels_hold_the_coarse_structure_of_the_start():
    # A ramp is on the coarsest level but for its bends; what is left for the others is small.
    ramp = torch.linspace(-1, 1, 32, dtype=torch.float64).sigmoid().expand(1, 1, 32, 32)
    energy = [float(level.detach().square().mean()) for level in made_of(ramp).levels]
    assert energy[0] > 10 * sum(energy[1:])
    # A chessboard of pixels has no structure but the finest.
    board = 0.25 + 0.5 * (torch.arange(32)[:, None] + torch.arange(32)).remainder(2).double()
    energy = [float(level.detach().square().mean()) for level in made_of(board[None, None]).levels]
    assert energy[-1] > 1e6 * sum(energy[:-1])


def learned(made, target, steps):
    """Error left at low and high frequencies, as shares, after steps of Adam on noisy slopes."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(made.parameters(), lr=0.01, betas=(0.9, 0.99))
    for _ in range(steps):
        images = made()
        noise = torch.randn(target.shape, generator=generator)
        optimizer.zero_grad()
        images.backward(images.detach() - target + 0.5 * noise)
        optimizer.step()
        made.constrain_()
    frequency = torch.fft.fftfreq(32).abs() * 32
    coarse = (frequency[:, None] < 4) & (frequency < 4)
    left = torch.fft.fft2(made().detach() - target).abs().square()
    whole = torch.fft.fft2(target - 0.5).abs().square()
    return [float((left * band).sum() / (whole * band).sum()) for band in (coarse, ~coarse)]


def test_coarse_structure_is_learned_first():
    # As in photographs, amplitudes fall as one over the frequency.
    spectrum = torch.fft.fft2(torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(1)))
    frequency = torch.fft.fftfreq(32) * 32
    target = torch.fft.ifft2(spectrum / torch.hypot(frequency[:, None], frequency).clamp(1)).real
    target = (target / target.std() * 0.15 + 0.5).clamp(0.02, 0.98)
    gray = torch.full_like(target, 0.5)
    coarse, fine = learned(Pyramid(gray), target, 20)
    assert coarse < 0.3  # measured 0.2
    assert fine > 0.7
    coarse_of_pixels, _ = learned(Pixels(gray), target, 20)
    assert coarse < 0.7 * coarse_of_pixels


def test_a_mid_gray_pixel_moves_as_far_as_one_of_pixels():
    gray = torch.full((1, 1, 16, 16), 0.5)
    for made in (Pyramid(gray), Pyramid(gray, 1), Pixels(gray)):
        optimizer = torch.optim.Adam(made.parameters(), lr=0.01)
        made().sum().backward()
        optimizer.step()
        torch.testing.assert_close(made().detach(), gray - 0.01, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("size", "levels", "expected"),
    [
        ((8, 8), None, [4, 8]),
        ((28, 28), None, [7, 14, 28]),
        ((32, 32), None, [4, 8, 16, 32]),
        ((112, 112), None, [7, 14, 28, 56, 112]),
        ((224, 224), None, [7, 14, 28, 56, 112, 224]),
        ((3, 3), None, [3]),
        ((7, 100), None, [7]),
        ((9, 9), 4, [2, 3, 5, 9]),
        ((224, 224), 2, [112, 224]),
    ],
)
def test_sizes_of_levels(size, levels, expected):
    assert [height for height, _ in level_sizes(*size, levels)] == expected


def test_levels_and_basis_that_do_not_fit():
    with pytest.raises(ValueError, match=r"from 1 to 4 for images of 8 x 9, got 5; leave it out f"):
        Pyramid(torch.rand(1, 1, 8, 9), 5)
    with pytest.raises(ValueError, match=r"`basis` must be \(1, 1\) for images of 1 channels"):
        Pyramid(torch.rand(1, 1, 8, 8), basis=torch.eye(3))


def test_its_state_has_levels_and_colors_and_gives_the_same_images():
    made = made_of(torch.rand(2, 3, 16, 16), decorrelated=True)
    assert sorted(made.state_dict()) == ["basis", "inverse", "levels.0", "levels.1", "levels.2"]
    other = made_of(torch.rand(2, 3, 16, 16), decorrelated=True)
    other.load_state_dict(made.state_dict())
    assert torch.equal(other(), made())
    assert (made.factor, made.stored().shape) == (1, (2, 3, 16, 16))


def test_half_precision_is_not_for_sums_of_levels():
    made = made_of(torch.rand(2, 3, 16, 16), decorrelated=True)
    plain = made()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made(), plain)
