"""What the outer optimizer moves to make the synthetic images: pixels, or fewer of them.

Below `synthetic`, which owns one. A parametrisation is a module that returns all images in pixel
space and can put its parameters back into the range in which images survive as 8-bit PNG.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Parametrization(nn.Module):
    """Synthetic images as a function of parameters.

    An implementation is made from the images it should start at, ``(N, C, H, W)`` in [0, 1].

    Attributes:
        pixels: the parameters: what has to be stored.
        factor: how many times smaller than the images they are, in each direction.
    """

    pixels: nn.Parameter
    factor: int = 1

    @abstractmethod
    def forward(self) -> Tensor:
        """The images, ``(N, C, H, W)`` in [0, 1]."""

    @abstractmethod
    def constrain_(self) -> None:
        """Put the parameters back to where all images are in [0, 1], in place."""


class Pixels(Parametrization):
    """Every pixel is a parameter."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.pixels = nn.Parameter(images.detach().clone())

    def forward(self) -> Tensor:
        """See `Parametrization`."""
        return self.pixels

    @torch.no_grad()
    def constrain_(self) -> None:
        """See `Parametrization`."""
        self.pixels.clamp_(0.0, 1.0)


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
        if factor < 1 or height % factor or width % factor:
            raise ValueError(
                f"`factor` must divide the size of the images, {height} x {width}, got {factor}; "
                'choose another factor or parametrization="pixels"'
            )
        self.size = (height, width)
        self.factor = factor
        self.pixels = nn.Parameter(F.avg_pool2d(images.detach(), factor))

    @classmethod
    def of_stored(cls, pixels: Tensor, factor: int) -> Upsampled:
        """From the parameters that another one had; its images are the same bit for bit."""
        height, width = pixels.shape[-2:]
        made = cls(pixels.new_zeros(1, 1, height * factor, width * factor), factor)
        made.pixels = nn.Parameter(pixels.detach().clone())
        return made

    def forward(self) -> Tensor:
        """See `Parametrization`."""
        return F.interpolate(self.pixels, self.size, mode="bilinear", align_corners=False)

    @torch.no_grad()
    def constrain_(self) -> None:
        """See `Parametrization`; bilinear interpolation stays within the range of its input."""
        self.pixels.clamp_(0.0, 1.0)


PARAMETRIZATIONS: dict[str, type[Parametrization]] = {"pixels": Pixels, "upsampled": Upsampled}
