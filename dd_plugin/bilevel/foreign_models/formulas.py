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
| mse_loss | missing where one side has no tangent, as labels | right |
| multi_margin_loss, embedding_bag | missing | missing |
| native_channel_shuffle | missing, and so is the first | missing |

`one_hot` has no derivative and needs none, but it reads its input, which a tensor without data
does not let it do inside of a transform: the engine's trace failed at it.

Each function here has the signature and the values of the operation it stands for, and is made of
operations that have every rule. `second_order` puts them in place. What none of this covers
(CTC loss, multilabel margin loss, torchvision's `roi_align` and `deform_conv2d`, fused recurrent
kernels) raises torch's own error, which `missing_rule_operation` recognizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dd_plugin.bilevel.foreign_models.grid_sample import grid_sample, grid_sampler
from dd_plugin.private import WEIGHT_NORMS, may_be_traced, native_nn

_native_embedding_bag = F.embedding_bag
_native_one_hot = F.one_hot
_native_attention = F.scaled_dot_product_attention


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


def _safe_root(x: Tensor, exponent: float) -> Tensor:
    """Return x^exponent with derivatives 0 at x = 0, as those of the norms are by convention."""
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


def mse_loss(input: Tensor, target: Tensor, reduction: int = 1) -> Tensor:
    """`torch._C._nn.mse_loss`, what `torch.nn.functional.mse_loss` calls without weights.

    The reduction is torch's number for it: 0 none, 1 mean, 2 sum.
    """
    return _reduced((input - target).square(), ("none", "mean", "sum")[reduction])


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


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """`torch.nn.functional.one_hot`, by comparison while `make_fx` traces."""
    if num_classes < 1 or not may_be_traced():
        return _native_one_hot(tensor, num_classes)
    return (tensor.unsqueeze(-1) == torch.arange(num_classes, device=tensor.device)).long()


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """`torch.native_channel_shuffle`: (N, C, ...), the channels of the groups interleaved."""
    return input.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


# (where the operation lives, its name there, the formula that stands in for it)
REPLACEMENTS: tuple[tuple[Any, str, Callable[..., Any]], ...] = tuple(
    (home, name, formula)
    for home, name, formula in (
        (F, "hardsigmoid", hardsigmoid),
        (native_nn, "hardsigmoid", hardsigmoid),
        (native_nn, "hardsigmoid_", hardsigmoid_),
        (F, "scaled_dot_product_attention", scaled_dot_product_attention),
        (native_nn, "scaled_dot_product_attention", scaled_dot_product_attention),
        (F, "grid_sample", grid_sample),
        (torch, "grid_sampler", grid_sampler),
        (torch, "cdist", cdist),
        (torch.functional, "cdist", cdist),
        (torch, "pdist", pdist),
        (F, "pdist", pdist),
        (*WEIGHT_NORMS[0], weight_norm),
        (*WEIGHT_NORMS[1], weight_norm),
        (F, "huber_loss", huber_loss),
        (native_nn, "mse_loss", mse_loss),
        (F, "soft_margin_loss", soft_margin_loss),
        (F, "multi_margin_loss", multi_margin_loss),
        (F, "embedding_bag", embedding_bag),
        (F, "one_hot", one_hot),
        (native_nn, "one_hot", one_hot),
        (torch, "native_channel_shuffle", channel_shuffle),
    )
    if hasattr(home, name)
)
