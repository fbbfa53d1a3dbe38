"""The arithmetic of batch normalization, as pure functions of tensors.

First in the flow: the layers in this package are thin shells around these functions. Everything
here is ordinary differentiable tensor arithmetic, because the fused kernel
``torch.nn.functional.batch_norm`` has no gradient for its running statistics and gives wrong
results under reverse-over-forward differentiation. Where the kernel's own rules are right it is
still used, since it is faster; `fused_kernel_is_exact` decides.

Shapes: inputs are ``(N, C)`` or ``(N, C, *)``, statistics and affine parameters are ``(C,)``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dd_plugin.private import in_transform, is_tracing

_LOW_PRECISION = (torch.float16, torch.bfloat16)


def in_plain_eager_mode() -> bool:
    """Whether no function transform, forward-mode differentiation or compiler is at work."""
    return not torch.compiler.is_compiling() and not in_transform()


def fused_kernel_is_exact(x: Tensor) -> bool:
    """Whether the fused kernel's derivative rules hold for what is being computed from ``x`` now.

    They hold in plain eager mode (first derivatives and double backward). Under a function
    transform, under forward-mode differentiation, and inside a compiled region (which may hold a
    transform, and fuses plain arithmetic by itself) the plain formulas are used instead. So they
    are for a batch of one: torch 2.15's CPU kernel then takes an incoming gradient that is a
    transposed view for a contiguous one, and returns a wrong gradient. And for an empty batch,
    which has no moments for the kernel to report.
    """
    return in_plain_eager_mode() and x.shape[0] > 1 and x.numel() > 0


def positive(variance: Tensor) -> Tensor:
    """The absolute value of ``variance``, with derivative 1 rather than 0 at zero.

    A variance that an optimizer moved below zero is read as its absolute value, so that it stays
    a variance and still has a gradient; any variance that is one already is unchanged, to the bit.
    """
    # `torch.jit.trace` checks its graph without gradients: it must be the same graph there.
    if not torch.is_grad_enabled() and in_plain_eager_mode() and not is_tracing():
        return variance.abs()  # no derivative can be asked for: one operation instead of three
    return torch.where(variance < 0, -variance, variance)


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in the precision in which statistics are computed."""
    return x.float() if x.dtype in _LOW_PRECISION else x


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    """``(C,)`` reshaped to broadcast against ``like`` of shape ``(N, C, *)``."""
    return values.view((1, -1) + (1,) * (like.dim() - 2))


def batch_moments(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Mean and biased variance over every dimension but the channels, and the number of values.

    Returns:
        ``mean (C,)``, ``variance (C,)`` in at least float32, and the count per channel. With a
        count of 0 both moments are zeros, which are not to be observed: see `moving_average`.

    Raises:
        ValueError: with one value per channel, as ``torch.nn.BatchNorm2d`` in train mode.
    """
    count = x.numel() // max(x.shape[1], 1)
    if count == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {x.size()}"
        )
    dims = [d for d in range(x.dim()) if d != 1]
    if count == 0:
        nothing = at_least_float32(x).sum(dims)
        return nothing, nothing, count
    mean, var = moments(at_least_float32(x))
    return mean, var, count


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over every dimension but the channels; there has to be a value.

    On CPU two sums: torch's kernel for the variance is not vectorized there (2.14 and 2.15), and
    what the second one centers is what the layer normalizes. A compiler has its own way.
    """
    dims = [d for d in range(x.dim()) if d != 1]
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        var, mean = torch.var_mean(x, dims, correction=0)
        return mean, var
    count = x.numel() // x.shape[1]
    mean = x.sum(dims) / count
    centered = x - per_channel(mean, x)
    return mean, (centered * centered).sum(dims) / count


def normalize(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias``, differentiable in every argument.

    Returns:
        A tensor of the shape and dtype of ``x``.
    """
    scale = torch.rsqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    y = (at_least_float32(x) - per_channel(mean, x)) * per_channel(scale, x)
    if bias is not None:
        y = y + per_channel(bias, x)
    return y.to(x.dtype)


def fused_normalize(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """`normalize` through the fused kernel, for plain eager mode.

    The kernel gets the statistics as constants; their derivatives go through the affine
    parameters instead. With ``m, v`` the constants of equal value to ``mean, var``, ::

        (x - mean) rsqrt(var + eps) w + b  =  (x - m) rsqrt(v + eps) w' + b'
        w' = w sqrt(v + eps) rsqrt(var + eps)
        b' = b + (m - mean) rsqrt(var + eps) w

    is an identity in ``mean`` and ``var``, so derivatives of every order are exact.
    """
    if torch.is_grad_enabled() and (mean.requires_grad or var.requires_grad):
        m, v = mean.detach(), var.detach()
        inverse_std = torch.rsqrt(var + eps)
        ratio = inverse_std / inverse_std.detach()
        offset = (m - mean) * inverse_std
        if weight is not None:
            offset = offset * weight
        weight = ratio if weight is None else ratio * weight
        bias = offset if bias is None else bias + offset
        mean, var = m, v
    return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)


def effective_momentum(momentum: float | Tensor, shift: Tensor) -> Tensor:
    """The momentum moved by ``shift`` on the logit scale: ``m e^s / (1 - m + m e^s)``.

    It equals ``momentum`` at ``shift = 0``, stays within ``[0, 1]`` for every finite shift, and is
    differentiable in ``shift`` (clamped at +-30, where the slope is 1e-13 of its maximum).
    """
    odds = momentum * torch.exp(at_least_float32(shift).clamp(-30.0, 30.0))
    return odds / (1 - momentum + odds)


def moving_average(running: Tensor, observed: Tensor, momentum: float | Tensor) -> Tensor:
    """``(1 - momentum) * running + momentum * observed`` in the dtype of ``running``.

    An empty batch has nothing to observe: its moments are not to be averaged in, and the running
    statistics stay as they are, as torch's layers leave them.
    """
    return ((1 - momentum) * running + momentum * observed).to(running.dtype)


def unbiased(var: Tensor, count: int | Tensor) -> Tensor:
    """The unbiased variance from the biased one, as the running average keeps it."""
    return var * (count / (count - 1))
