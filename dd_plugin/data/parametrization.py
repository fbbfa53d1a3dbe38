"""Parametrizations of the synthetic images: pixels or a pyramid, in full size or smaller.

Below `synthetic`, which owns one. A parametrization is a module that returns all images in pixel
space. It can put its parameters back into the range of images that survive as 8-bit PNG.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dd_plugin.data.stored_sizes import check_factor, level_sizes


class Parametrization(nn.Module):
    """Synthetic images as a function of parameters.

    An implementation is made from the images it should start at, ``(N, C, H, W)`` in [0, 1].

    Attributes:
        factor: how many times smaller than the images they are stored, in each direction.
    """

    factor: int = 1

    @abstractmethod
    def forward(self) -> Tensor:
        """Return the images, ``(N, C, H, W)`` in [0, 1]."""

    @abstractmethod
    def constrain_(self) -> None:
        """Put the parameters back to where all images are in [0, 1], in place."""

    def stored(self) -> Tensor:
        """Return what has to be stored of the images, ``factor`` times smaller than they are."""
        images: Tensor = self()
        return images

    @abstractmethod
    def show_(self, rows: Tensor, stored: Tensor) -> None:
        """Make some images show what is stored of others, in place.

        Args:
            rows: which of the images, ``(M,)``.
            stored: what they are to show, ``(M, C, H / factor, W / factor)`` in [0, 1].
        """


class Pixels(Parametrization):
    """Every pixel is a parameter."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.pixels = nn.Parameter(images.detach().clone())

    def forward(self) -> Tensor:
        """Return the pixels."""
        return self.pixels

    @torch.no_grad()
    def constrain_(self) -> None:
        """Clamp the pixels to [0, 1]."""
        self.pixels.clamp_(0.0, 1.0)

    @torch.no_grad()
    def show_(self, rows: Tensor, stored: Tensor) -> None:
        """Write the pixels."""
        self.pixels[rows] = stored.to(self.pixels)


class Upsampled(Parametrization):
    """Images of a lower resolution, enlarged bilinearly: factor² as many in the same storage.

    The idea is IDC's (Kim et al., arXiv 2205.14959).

    Args:
        images: where to start, in full size; they are averaged down.
        factor: how many times smaller the stored images are.

    Raises:
        ValueError: the size is not a multiple of the factor.
    """

    def __init__(self, images: Tensor, factor: int = 2) -> None:
        super().__init__()
        height, width = images.shape[-2:]
        check_factor(height, width, factor)
        self.size = (height, width)
        self.factor = factor
        self.pixels = nn.Parameter(F.avg_pool2d(images.detach(), factor))

    def stored(self) -> Tensor:
        """Return the pixels before they are enlarged."""
        return self.pixels

    @classmethod
    def of_stored(cls, pixels: Tensor, factor: int) -> Upsampled:
        """Make one from the parameters of another; its images are the same bit for bit."""
        height, width = pixels.shape[-2:]
        images = cls(pixels.new_zeros(1, 1, height * factor, width * factor), factor)
        images.pixels = nn.Parameter(pixels.detach().clone())
        return images

    def forward(self) -> Tensor:
        """Return the enlarged pixels."""
        return _enlarged(self.pixels, self.size)

    @torch.no_grad()
    def constrain_(self) -> None:
        """Clamp the pixels to [0, 1]; interpolated ones stay within their range."""
        self.pixels.clamp_(0.0, 1.0)

    @torch.no_grad()
    def show_(self, rows: Tensor, stored: Tensor) -> None:
        """Write the pixels before they are enlarged."""
        self.pixels[rows] = stored.to(self.pixels)


class Pyramid(Parametrization):
    """Images as a sum of levels of rising resolution, squashed to [0, 1] by a sigmoid.

    image = sigmoid(4 B (u_1(z_1) + ... + u_L(z_L)) / L)

    Level z_l is half as high and wide as the next one and the last has the size of the images; u_l
    enlarges it bilinearly, and B is the color space. A structure that is larger than a pixel of a
    level moves in this and in all finer levels at once. Adam moves every parameter about equally
    far, so the coarsest structure is learned L times as fast as single pixels: coarse to fine,
    without a schedule. Equal weights of the levels suit photographs, which have about as much
    variance in each octave.

    The slope of a sigmoid at its middle is 1/4. Hence the 4, and hence ``1 / L``: where all levels
    agree, a mid-gray pixel moves as far as one of `Pixels` at the same learning rate.

    The idea is that of Linear Gradient Matching (Cazenavette et al., arXiv 2511.16674), after
    feature visualization (Olah et al., doi:10.23915/distill.00007).

    Args:
        images: where to start. Black and white become values that a PNG rounds to them.
        levels: how many; by default as many as have at least four rows and columns, such as
            224, 112, 56, 28, 14 and 7.
        basis: ``(C, C)``, the color space of the levels, as
            `dd_plugin.data.colors.decorrelating_basis` gives; by default the channels themselves.

    Raises:
        ValueError: there are more levels than the images can be halved, or the basis does not fit.
    """

    basis: Tensor | None
    inverse: Tensor | None

    def __init__(
        self, images: Tensor, levels: int | None = None, basis: Tensor | None = None
    ) -> None:
        super().__init__()
        channels, height, width = images.shape[1:]
        self.sizes = level_sizes(height, width, levels)
        if basis is not None and basis.shape != (channels, channels):
            raise ValueError(
                f"`basis` must be ({channels}, {channels}) for images of {channels} channels, got "
                f"{tuple(basis.shape)}"
            )
        self.register_buffer("basis", None if basis is None else basis.detach().to(images))
        inverse = None if basis is None else torch.linalg.inv(basis.detach().double()).to(images)
        self.register_buffer("inverse", inverse)
        for index, size in enumerate(self.sizes[:-1]):
            for axis, (low, high) in enumerate(zip(size, (height, width), strict=True)):
                enlarging = _enlarging(low, high).to(images)
                # A function of the sizes, so no part of the state.
                self.register_buffer(f"enlarging_{index}_{axis}", enlarging, persistent=False)
        self.levels = nn.ParameterList(map(nn.Parameter, self._levels_of(images.detach())))

    def _levels_of(self, images: Tensor) -> list[Tensor]:
        """A Laplacian pyramid: each level has what coarser ones leave over at its resolution."""
        logits = images.clamp(_BLACK, 1 - _BLACK).logit()
        left = _colors(logits, self.inverse) * (len(self.sizes) / _GAIN)
        levels = []
        for index, size in enumerate(self.sizes):
            level = left if index == len(self.sizes) - 1 else F.adaptive_avg_pool2d(left, size)
            left = left - self._enlarged(level, index)
            levels.append(level.clone())
        return levels

    def forward(self) -> Tensor:
        """Return the sigmoid of the sum of the levels."""
        return self._logits().sigmoid()

    def _logits(self) -> Tensor:
        # Half precision would be coarser than the bytes of an image.
        with torch.autocast(self.levels[0].device.type, enabled=False):
            enlarged = [self._enlarged(level, index) for index, level in enumerate(self.levels)]
            total = functools.reduce(torch.add, enlarged)
            return _colors(total, self.basis) * (_GAIN / len(self.sizes))

    def _enlarged(self, level: Tensor, index: int) -> Tensor:
        """Return a level in full size, by products of matrices, whose backward repeats on a GPU."""
        if index == len(self.sizes) - 1:
            return level
        rows, columns = (self.get_buffer(f"enlarging_{index}_{axis}") for axis in (0, 1))
        return rows @ level @ columns.mT

    @torch.no_grad()
    def constrain_(self) -> None:
        """Limit the logits: the images are in [0, 1] anyway, but gradients must not die out.

        A logit beyond the limit is taken back to it, by way of the finest level.
        """
        for level in self.levels:
            level.clamp_(-_LARGEST, _LARGEST)
        logits = self._logits()
        excess = logits - logits.clamp(-_LIMIT, _LIMIT)
        self.levels[-1].sub_(_colors(excess, self.inverse) * (len(self.sizes) / _GAIN))

    @torch.no_grad()
    def show_(self, rows: Tensor, stored: Tensor) -> None:
        """Write the levels."""
        for level, new in zip(self.levels, self._levels_of(stored.to(self.levels[0])), strict=True):
            level[rows] = new


class UpsampledPyramid(Parametrization):
    """A `Pyramid` of a lower resolution, enlarged bilinearly: factor² as many in the same storage.

    Args:
        images: where to start, in full size; they are averaged down.
        factor: how many times smaller the stored images are.
        levels: of the pyramid, whose last has the size of what is stored.
        basis: ``(C, C)``, the color space of the levels; by default the channels themselves.

    Raises:
        ValueError: the size is not a multiple of the factor, there are more levels than the stored
            images can be halved, or the basis does not fit.
    """

    def __init__(
        self,
        images: Tensor,
        factor: int = 2,
        levels: int | None = None,
        basis: Tensor | None = None,
    ) -> None:
        super().__init__()
        height, width = images.shape[-2:]
        check_factor(height, width, factor)
        self.size = (height, width)
        self.factor = factor
        self.small = Pyramid(F.avg_pool2d(images.detach(), factor), levels, basis)

    def stored(self) -> Tensor:
        """Return the images before they are enlarged."""
        images: Tensor = self.small()
        return images

    def forward(self) -> Tensor:
        """Return the enlarged images."""
        return _enlarged(self.small(), self.size)

    def constrain_(self) -> None:
        """Limit the logits of the pyramid; interpolated pixels stay within their range."""
        self.small.constrain_()

    def show_(self, rows: Tensor, stored: Tensor) -> None:
        """Write the levels."""
        self.small.show_(rows, stored)


# Logits per unit of all levels: the steepest slope of an image is then 1.
_GAIN: Final = 4.0
# A value that rounds to black in 8 bits; its logit is -6.4, so black can be learned away again.
_BLACK: Final = 1 / 600
# The largest logit, beyond which a step of the optimizer changes no byte.
_LIMIT: Final = 8.0
# The largest parameter; float32 then has the sum of all levels to a thousandth.
_LARGEST: Final = 1000.0


def _enlarged(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(pixels, size, mode="bilinear", align_corners=False)


def _enlarging(low: int, high: int) -> Tensor:
    """Return the matrix ``(high, low)`` of bilinear enlargement along one axis, in float64."""
    rows = torch.eye(low, dtype=torch.float64)[None]
    return F.interpolate(rows, high, mode="linear", align_corners=False)[0].mT.contiguous()


def _colors(images: Tensor, matrix: Tensor | None) -> Tensor:
    """Multiply each pixel by a matrix of colors."""
    if matrix is None:
        return images
    return torch.einsum("dc,nchw->ndhw", matrix, images)


PARAMETRIZATIONS: dict[str, type[Parametrization]] = {
    "pixels": Pixels,
    "upsampled": Upsampled,
    "pyramid": Pyramid,
    "upsampled_pyramid": UpsampledPyramid,
}
