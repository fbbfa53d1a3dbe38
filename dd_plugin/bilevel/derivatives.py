"""Formulas of plain tensor operations for torch operations whose second derivative is missing.

A hypergradient differentiates an inner gradient, so every operation of the model is asked for the
forward-mode rule of its backward (forward over reverse) or for the derivative of its backward
(double backward). The operations below lack one or both with torch 2.15, and one, the fused
`weight_norm`, has a double backward that is silently wrong:

| operation | forward over reverse | double backward |
|---|---|---|
| hardsigmoid | missing | missing |
| scaled_dot_product_attention, fused kernels | missing | missing |
| grid_sample | missing | right |
| weight_norm, fused | missing | wrong |
| cdist, pdist | missing | right |
| huber_loss, soft_margin_loss | missing | right |
| multi_margin_loss, embedding_bag | missing | missing |
| native_channel_shuffle | missing, and so is the first | missing |

Each function here has the signature and the values of the operation it stands for, and is made of
operations that have every rule. `second_order` puts them in place. What none of this covers
(CTC loss, multilabel margin loss, torchvision's `roi_align` and `deform_conv2d`, fused recurrent
kernels) raises torch's own error, which `missing_rule_operation` recognises.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_native_embedding_bag = F.embedding_bag
_native_attention = F.scaled_dot_product_attention

_GRID_MODES = ("bilinear", "nearest", "bicubic")
_GRID_PADDINGS = ("zeros", "border", "reflection")
_CUBIC_A = -0.75  # the cubic convolution coefficient of torch's bicubic sampling


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """`torch.nn.functional.hardsigmoid`: relu6(x + 3) / 6."""
    # x + 3 is a new tensor, so writing the result into `input` overwrites nothing that is saved.
    output = F.relu6(input + 3.0) / 6.0
    return input.copy_(output) if inplace else output


def hardsigmoid_(input: Tensor) -> Tensor:
    """`torch._C._nn.hardsigmoid_`, in place."""
    return hardsigmoid(input, inplace=True)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` without its fused kernels.

    softmax(query key^T scale + mask) value, shapes (..., L, E), (..., S, E), (..., S, Ev), with
    the score matrix (..., L, S) in memory. Half precision takes its softmax in float32. Rows that
    a mask closes completely give zeros, as in torch. Dropout has torch's distribution, not the
    random numbers of the fused kernels.

    Raises:
        ValueError: `attn_mask` together with `is_causal`.
    """
    if query.is_nested or key.is_nested or value.is_nested:
        return _native_attention(
            query,
            key,
            value,
            attn_mask=attn_mask,
            dropout_p=dropout_p,
            is_causal=is_causal,
            scale=scale,
            enable_gqa=enable_gqa,
        )
    if is_causal and attn_mask is not None:
        raise ValueError(
            "`attn_mask` must be None when `is_causal` is set, got both; "
            "combine them into one `attn_mask`"
        )
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    if scale is None:
        scale = 1.0 / math.sqrt(query.shape[-1])
    scores = (query * scale) @ key.transpose(-2, -1)
    if scores.dtype in (torch.float16, torch.bfloat16):
        scores = scores.float()
    if is_causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~allowed, -math.inf)
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        else:
            scores = scores + attn_mask
        closed = (scores == -math.inf).all(-1, keepdim=True)
        weights = torch.softmax(scores.masked_fill(closed, 0.0), -1).masked_fill(closed, 0.0)
    else:
        weights = torch.softmax(scores, -1)
    if dropout_p > 0.0:
        weights = torch.dropout(weights, dropout_p, True)
    return weights.to(value.dtype) @ value


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
    """Keys' cubic convolution at the distances 1 + t, t, 1 - t, 2 - t (Keys 1981, eq. 15)."""

    def near(x: Tensor) -> Tensor:
        return ((_CUBIC_A + 2) * x - (_CUBIC_A + 3)) * x * x + 1

    def far(x: Tensor) -> Tensor:
        return ((x - 5) * x + 8) * x * _CUBIC_A - 4 * _CUBIC_A

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


def _taps(
    coordinate: Tensor, size: int, mode: str, padding_mode: str, align_corners: bool
) -> list[tuple[Tensor, Tensor]]:
    """Index and weight of each tap along one axis; the weight is zero outside of the input."""
    # -1 and 1 are the centres of the outer pixels, or their outer edges.
    x = (coordinate + 1) / 2 * size - 0.5
    if align_corners:
        x = (coordinate + 1) / 2 * (size - 1)
    if mode != "bicubic":
        x = _pad_coordinate(x, size, padding_mode, align_corners)
    first = torch.round(x.detach()) if mode == "nearest" else torch.floor(x.detach())
    t = x - first
    if mode == "nearest":
        taps = [(first, torch.ones_like(x.detach()))]
    elif mode == "bilinear":
        taps = [(first, 1 - t), (first + 1, t)]
    else:
        taps = [
            (_pad_coordinate(first + k - 1, size, padding_mode, align_corners), weight)
            for k, weight in enumerate(_cubic_weights(t))
        ]
    found = []
    for position, weight in taps:
        inside = (position >= 0) & (position <= size - 1)
        index = torch.where(inside, position, torch.zeros_like(position)).long()
        found.append((index, weight * inside.to(weight.dtype)))
    return found


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
        _taps(grid[..., axes - 1 - k], sizes[k], mode, padding_mode, bool(align_corners))
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
        input, grid, _GRID_MODES[interpolation_mode], _GRID_PADDINGS[padding_mode], align_corners
    )


def _safe_root(x: Tensor, exponent: float) -> Tensor:
    """x^exponent with derivatives 0 at x = 0, where those of the norms are by convention."""
    zero = x == 0
    return torch.where(zero, torch.zeros_like(x), torch.where(zero, 1.0, x) ** exponent)


def _length(difference: Tensor, p: float) -> Tensor:
    if p == 0:
        return (difference != 0).to(difference.dtype).sum(-1)
    if p == 1:
        return difference.abs().sum(-1)
    if p == 2:
        return _safe_root(difference.square().sum(-1), 0.5)
    if math.isinf(p):
        return difference.abs().amax(-1)
    return _safe_root(_safe_root(difference.abs(), p).sum(-1), 1 / p)


def cdist(
    x1: Tensor,
    x2: Tensor,
    p: float = 2.0,
    compute_mode: str = "use_mm_for_euclid_dist_if_necessary",
) -> Tensor:
    """`torch.cdist` from differences: (..., P, M), (..., R, M) to (..., P, R).

    The differences (..., P, R, M) are in memory; `compute_mode` has no effect.
    """
    return _length(x1.unsqueeze(-2) - x2.unsqueeze(-3), p)


def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """`torch.nn.functional.pdist`: (N, M) to (N (N - 1) / 2,)."""
    rows, columns = torch.triu_indices(
        input.shape[0], input.shape[0], offset=1, device=input.device
    ).unbind()
    return _length(input[rows] - input[columns], p)


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """`torch._weight_norm`: v g / |v|, the norm taken over every axis but `dim` (-1: over all)."""
    axes = tuple(range(v.dim())) if dim == -1 else tuple(k for k in range(v.dim()) if k != dim)
    norm = v.square().sum(axes, keepdim=dim != -1).sqrt()
    return v * (g / norm)


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return loss
    if reduction not in ("mean", "sum"):
        raise ValueError(f"`reduction` must be 'none', 'mean' or 'sum', got {reduction!r}")
    return loss.mean() if reduction == "mean" else loss.sum()


def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.huber_loss`."""
    error = input - target
    size = error.abs()
    loss = torch.where(size <= delta, 0.5 * error.square(), delta * (size - 0.5 * delta))
    if weight is None:
        return _reduced(loss, reduction)
    loss = loss * weight
    return (
        loss.sum() / weight.expand_as(loss).sum()
        if reduction == "mean"
        else _reduced(loss, reduction)
    )


def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """`torch.nn.functional.soft_margin_loss`: log(1 + exp(-y x))."""
    return _reduced(F.softplus(-target * input), _legacy_reduction(size_average, reduce, reduction))


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """`torch.nn.functional.multi_margin_loss`: (N, C) or (C,) and the class indices."""
    x = input if input.dim() == 2 else input.unsqueeze(0)
    y = target.reshape(-1, 1)
    violation = F.relu(margin - x.gather(1, y) + x) ** p
    if weight is not None:
        violation = violation * weight[y]
    loss = violation.scatter(1, y, 0.0).sum(1) / x.shape[1]
    loss = loss if input.dim() == 2 else loss.squeeze(0)
    return _reduced(loss, _legacy_reduction(size_average, reduce, reduction))


def _legacy_reduction(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    if size_average is None and reduce is None:
        return reduction
    if reduce is False:
        return "none"
    return "sum" if size_average is False else "mean"


def embedding_bag(input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`torch.nn.functional.embedding_bag` for bags of one length: (B, N) to (B, D).

    Covers the modes "sum" (with `per_sample_weights`) and "mean"; everything else goes to torch.
    """
    options = {"mode": "mean", "per_sample_weights": None} | kwargs
    mode, sample_weights = options.pop("mode"), options.pop("per_sample_weights")
    plain = not args and not any(options.values()) and options.get("padding_idx") is None
    if input.dim() != 2 or mode not in ("sum", "mean") or not plain:
        return _native_embedding_bag(input, weight, *args, **kwargs)
    rows = F.embedding(input, weight)
    if sample_weights is not None:
        rows = rows * sample_weights.unsqueeze(-1)
    return rows.sum(1) if mode == "sum" else rows.mean(1)


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """`torch.native_channel_shuffle`: (N, C, ...), the channels of the groups interleaved."""
    return input.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


# (where the operation lives, its name there, the formula that stands in for it)
REPLACEMENTS: tuple[tuple[Any, str, Callable[..., Any]], ...] = tuple(
    (home, name, formula)
    for home, name, formula in (
        (F, "hardsigmoid", hardsigmoid),
        (torch._C._nn, "hardsigmoid", hardsigmoid),
        (torch._C._nn, "hardsigmoid_", hardsigmoid_),
        (F, "scaled_dot_product_attention", scaled_dot_product_attention),
        (torch._C._nn, "scaled_dot_product_attention", scaled_dot_product_attention),
        (F, "grid_sample", grid_sample),
        (torch, "grid_sampler", grid_sampler),
        (torch, "cdist", cdist),
        (torch.functional, "cdist", cdist),
        (torch, "pdist", pdist),
        (F, "pdist", pdist),
        (torch, "_weight_norm", weight_norm),
        (sys.modules["torch.nn.utils.weight_norm"], "_weight_norm", weight_norm),
        (F, "huber_loss", huber_loss),
        (F, "soft_margin_loss", soft_margin_loss),
        (F, "multi_margin_loss", multi_margin_loss),
        (F, "embedding_bag", embedding_bag),
        (torch, "native_channel_shuffle", channel_shuffle),
    )
    if hasattr(home, name)
)
