"""`grid_sample` from plain tensor operations, so that it has every derivative rule.

torch's kernel has a backward and a double backward but no forward-mode rule of its backward, which
the jvp of a gradient asks for. Here each output pixel is a weighted sum of gathered input pixels
(taps): two per axis for bilinear, one for nearest, four for bicubic. `formulas` lists it among
the operations that `second_order` replaces.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

_GRID_MODES = ("bilinear", "nearest", "bicubic")
_GRID_PADDINGS = ("zeros", "border", "reflection")
_CUBIC_A = -0.75  # the cubic convolution coefficient of torch's bicubic sampling


def _reflect(x: Tensor, twice_low: int, twice_high: int) -> Tensor:
    if twice_low == twice_high:
        return torch.zeros_like(x)
    low, span = twice_low / 2, (twice_high - twice_low) / 2
    distance = (x - low).abs()
    flips = torch.floor(distance.detach() / span)
    extra = distance - flips * span
    return torch.where(flips % 2 == 0, extra, span - extra) + low


def _pad_coordinate(x: Tensor, size: int, padding_mode: str, align_corners: bool) -> Tensor:
    if padding_mode == "reflection":
        x = _reflect(x, 0, 2 * (size - 1)) if align_corners else _reflect(x, -1, 2 * size - 1)
    if padding_mode != "zeros":
        x = x.clamp(0, size - 1)
    return x


def _cubic_weights(t: Tensor) -> list[Tensor]:
    """Return Keys' cubic convolution at 1 + t, t, 1 - t and 2 - t (Keys 1981, eq. 15)."""

    def near(x: Tensor) -> Tensor:
        return ((_CUBIC_A + 2) * x - (_CUBIC_A + 3)) * x * x + 1

    def far(x: Tensor) -> Tensor:
        return ((x - 5) * x + 8) * x * _CUBIC_A - 4 * _CUBIC_A

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


def _taps(
    coordinate: Tensor, size: int, *, mode: str, padding_mode: str, align_corners: bool
) -> list[tuple[Tensor, Tensor]]:
    """Return index and weight of each tap along one axis; outside of the input it is zero."""
    # -1 and 1 are the centers of the outer pixels, or their outer edges.
    x = (coordinate + 1) / 2 * size - 0.5
    if align_corners:
        x = (coordinate + 1) / 2 * (size - 1)
    if mode != "bicubic":
        x = _pad_coordinate(x, size, padding_mode, align_corners)
    first = torch.round(x.detach()) if mode == "nearest" else torch.floor(x.detach())
    t = x - first
    if mode == "nearest":
        # 1, and in the graph: the gradient for the grid is zero, as in torch, rather than absent.
        taps = [(first, torch.where(torch.ones_like(x, dtype=torch.bool), 1.0, x))]
    elif mode == "bilinear":
        taps = [(first, 1 - t), (first + 1, t)]
    else:
        taps = [
            (_pad_coordinate(first + k - 1, size, padding_mode, align_corners), weight)
            for k, weight in enumerate(_cubic_weights(t))
        ]
    inside_taps = []
    for position, weight in taps:
        inside = (position >= 0) & (position <= size - 1)
        index = torch.where(inside, position, torch.zeros_like(position)).long()
        inside_taps.append((index, weight * inside.to(weight.dtype)))
    return inside_taps


def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """`torch.nn.functional.grid_sample` as gathers and weighted sums.

    Args:
        input: (N, C, H, W), or (N, C, D, H, W).
        grid: (N, h, w, 2) in x, y order, or (N, d, h, w, 3) in x, y, z order, in [-1, 1].
        mode: "bilinear", "nearest" or (4-D only) "bicubic".
        padding_mode: "zeros", "border" or "reflection".
        align_corners: as in torch; None is False.

    Returns:
        (N, C, h, w) or (N, C, d, h, w).

    Raises:
        ValueError: shapes, mode or padding that torch refuses as well.
    """
    axes = input.dim() - 2
    if axes not in (2, 3) or grid.dim() != input.dim() or grid.shape[-1] != axes:
        raise ValueError(
            "`input` and `grid` must be (N, C, H, W) and (N, h, w, 2), or (N, C, D, H, W) and "
            f"(N, d, h, w, 3), got {tuple(input.shape)} and {tuple(grid.shape)}"
        )
    if mode not in _GRID_MODES or (mode == "bicubic" and axes == 3):
        raise ValueError(f"`mode` must be one of {_GRID_MODES} (bicubic: 4-D only), got {mode!r}")
    if padding_mode not in _GRID_PADDINGS:
        raise ValueError(f"`padding_mode` must be one of {_GRID_PADDINGS}, got {padding_mode!r}")
    sizes = input.shape[2:]
    # The grid counts its axes from the last one of the input.
    taps = [
        _taps(
            grid[..., axes - 1 - k],
            sizes[k],
            mode=mode,
            padding_mode=padding_mode,
            align_corners=bool(align_corners),
        )
        for k in range(axes)
    ]
    flat = input.flatten(2)
    batch, channels = flat.shape[:2]
    output: Tensor | None = None
    for corner in itertools.product(*taps):
        index, weight = corner[0]
        for size, (next_index, next_weight) in zip(sizes[1:], corner[1:], strict=True):
            index, weight = index * size + next_index, weight * next_weight
        where = index.reshape(batch, 1, -1).expand(-1, channels, -1)
        term = flat.gather(2, where) * weight.reshape(batch, 1, -1).to(flat.dtype)
        output = term if output is None else output + term
    assert output is not None
    return output.reshape(batch, channels, *grid.shape[1:-1])


def grid_sampler(
    input: Tensor, grid: Tensor, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> Tensor:
    """`torch.grid_sampler`, which numbers its modes."""
    return grid_sample(
        input,
        grid,
        mode=_GRID_MODES[interpolation_mode],
        padding_mode=_GRID_PADDINGS[padding_mode],
        align_corners=align_corners,
    )
