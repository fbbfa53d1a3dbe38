"""Images resampled by affine maps, bilinearly, with a fill where there is no image.

Used by `augmentation` for its scaling, rotation and enlarged parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class AffineMap:
    """Where a pixel comes from: (x, y) from (xx x + xy y + x0, yx x + yy y + y0).

    Coordinates count from the center of the image, with its edges at -1 and 1. Each number is one
    per image, ``(N,)``; None is zero.

    Attributes:
        xx: x of the source for each x.
        yy: y of the source for each y.
        xy: x of the source for each y.
        yx: y of the source for each x.
        x: The shift x0.
        y: The shift y0.
    """

    xx: Tensor
    yy: Tensor
    xy: Tensor | None = None
    yx: Tensor | None = None
    x: Tensor | None = None
    y: Tensor | None = None

    def matrices(self) -> Tensor:
        """Return the map as `affine_grid` takes it, ``(N, 2, 3)``."""
        zero = torch.zeros_like(self.xx)
        numbers = (self.xx, self.xy, self.x, self.yx, self.yy, self.y)
        rows = torch.stack([zero if number is None else number for number in numbers], 1)
        return rows.view(-1, 2, 3)


def resample(images: Tensor, source: AffineMap, fill: Tensor, most: Tensor | None = None) -> Tensor:
    """Return images whose pixels come from other places of the same images.

    Args:
        images: ``(N, C, H, W)``.
        source: Where the pixels come from.
        fill: The value of pixels that come from outside, ``(1, C, 1, 1)`` or ``(1, 1, 1, 1)``.
        most: The largest absolute coordinates, x and y, to which others are moved.
    """
    grid = F.affine_grid(source.matrices(), list(images.shape), align_corners=False)
    return _sample(images, grid if most is None else grid.clamp(-most, most), fill)


def _sample(images: Tensor, grid: Tensor, fill: Tensor) -> Tensor:
    # Zeros come in; what is sampled is the difference from the fill.
    centered = images - fill
    # On a GPU the backward of grid_sample adds in any order, and cannot do otherwise.
    exact = images.is_cuda and torch.are_deterministic_algorithms_enabled()
    sample = sample_by_gather if exact else _grid_sample
    return sample(centered, grid) + fill


def _grid_sample(images: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def sample_by_gather(images: Tensor, grid: Tensor) -> Tensor:
    """Sample like `grid_sample`, bilinearly with zeros around, with a backward that can be exact.

    It takes some two to three times as long on a CPU.

    Args:
        images: ``(N, C, H, W)``.
        grid: ``(N, H, W, 2)``, x and y with the image's edges at -1 and 1.

    Returns:
        ``(N, C, H, W)``.
    """
    _, channels, height, width = images.shape
    x = ((grid[..., 0] + 1) * width - 1) / 2
    y = ((grid[..., 1] + 1) * height - 1) / 2
    left, top = x.floor(), y.floor()
    flat = images.flatten(2)
    result = torch.zeros_like(flat)
    for column, row in ((0, 0), (1, 0), (0, 1), (1, 1)):
        at_x, at_y = left + column, top + row
        inside = (at_x >= 0) & (at_x < width) & (at_y >= 0) & (at_y < height)
        weight = (1 - (x - at_x).abs()) * (1 - (y - at_y).abs()) * inside
        place = (at_y.clamp(0, height - 1) * width + at_x.clamp(0, width - 1)).long()
        taken = flat.gather(2, place.flatten(1)[:, None].expand(-1, channels, -1))
        result = result + taken * weight.flatten(1)[:, None]
    return result.view(images.shape)
