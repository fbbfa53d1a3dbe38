"""Batch normalization with derivative rules in closed form, for differentiating it twice.

Beside `arithmetic.py`, whose `batch_moments` and `normalize` compute the same value. Left to
automatic differentiation, the jvp of the gradient of those goes over a layer's activations a dozen
times, in a chain of dependent reductions. Written by hand it needs one reduction over ``(x, dx)``
going forward and one going back, with everything else elementwise: measured on a three-block
ConvNet, compiled on two CPU cores, the engine's backward sweep took 0.82 of the time.

With n values per channel, m and v their mean and biased variance, r = (v + eps)^(-1/2),
h = (x - m) r and y = w h + b; a dot is a tangent, <.> the mean over a channel's values:

    m. = <x.>,  q = <h x.>,  v. = 2 q / r,  r. = -r^2 q,  h. = r (x. - m. - h q)
    y. = w h. + w. h + b.

    with cotangents Y, M, V of y, m, v:   A = sum Y,  C = sum Y h
    X = w r Y + k0 + k1 h,   k0 = (M - w r A) / n,   k1 = (2 V / r - w r C) / n,   W = C,  B = A

The jvp of the second pair is written out in `_Backward.jvp`; derivatives of higher order come from
plain arithmetic. Under forward-over-reverse all of this is exact.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from dd_plugin.bn.arithmetic import at_least_float32, batch_moments, moments, normalize, per_channel


def batch_normalize(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Normalize ``x (N, C, *)`` with its own moments.

    Returns:
        The normalized ``x`` in its dtype, mean ``(C,)``, biased variance ``(C,)``, and the number
        of values per channel, as `batch_moments` gives them; differentiable any number of times in
        ``x``, ``weight``, ``bias``.

    Raises:
        ValueError: with one value per channel, as ``torch.nn.BatchNorm2d`` in train mode.
    """
    count = x.numel() // max(x.shape[1], 1)
    if count == 1:
        batch_moments(x)  # raises
    # The rules divide by the count, and Dynamo refuses a Function with a forward-mode rule.
    if count == 0 or torch.compiler.is_dynamo_compiling():
        mean, var, _ = batch_moments(x)
        y = normalize(x, mean, var, weight=weight, bias=bias, eps=eps)
        return y, mean, var, count
    wide = at_least_float32(x)
    like = wide.new_ones(x.shape[1])
    w = like if weight is None else weight
    b = torch.zeros_like(like) if bias is None else bias
    y, mean, var = _Normalize.apply(wide, w, b, eps)
    return y.to(x.dtype), mean, var, count


def _dims(x: Tensor) -> list[int]:
    return [d for d in range(x.dim()) if d != 1]


def _cotangents(
    x: Tensor, w: Tensor, m: Tensor, r: Tensor, *, dy: Tensor, dm: Tensor, dv: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    n = x.numel() // x.shape[1]
    h = (x - per_channel(m, x)) * per_channel(r, x)
    a, c = dy.sum(_dims(x)), (dy * h).sum(_dims(x))
    k0 = (dm - w * r * a) / n
    k1 = (2 * dv / r - w * r * c) / n
    return per_channel(w * r, x) * dy + per_channel(k0, x) + per_channel(k1, x) * h, c, a


class _Normalize(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        m, v = moments(x)
        return normalize(x, m, v, weight=w, bias=b, eps=eps), m, v

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, w, _, ctx.eps = inputs
        _, m, v = output
        ctx.save_for_backward(x, w, m, v)
        ctx.save_for_forward(x, w, m, v)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dm: Tensor, dv: Tensor) -> Any:
        x, w, m, v = ctx.saved_tensors
        dx, dw, db = _Backward.apply(x, w, m, v, dy, dm, dv, ctx.eps)
        return dx, dw, db, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor, tw: Tensor, tb: Tensor, _: None) -> Any:
        x, w, m, v = ctx.saved_tensors
        n = x.numel() // x.shape[1]
        r = torch.rsqrt(v + ctx.eps)
        h = (x - per_channel(m, x)) * per_channel(r, x)
        tm, q = tx.sum(_dims(x)) / n, (h * tx).sum(_dims(x)) / n
        th = per_channel(r, x) * (tx - per_channel(tm, x) - h * per_channel(q, x))
        ty = per_channel(w, x) * th + per_channel(tw, x) * h + per_channel(tb, x)
        return ty, tm, 2 * q / r


class _Backward(Function):
    """The cotangents of `_Normalize`; ``m`` and ``v`` are the moments of ``x``, not variables."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        w: Tensor,
        m: Tensor,
        v: Tensor,
        dy: Tensor,
        dm: Tensor,
        dv: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _cotangents(x, w, m, torch.rsqrt(v + eps), dy=dy, dm=dm, dv=dv)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.eps = inputs
        _, c, a = output
        ctx.save_for_backward(*tensors, c, a)
        ctx.save_for_forward(*tensors, c, a)

    @staticmethod
    def backward(ctx: Any, gx: Tensor, gw: Tensor, gb: Tensor) -> Any:
        x, w, m, v, dy, dm, dv, _, _ = ctx.saved_tensors

        def plain(x: Tensor, w: Tensor, m: Tensor, v: Tensor, *cotangents: Tensor) -> Any:
            dy, dm, dv = cotangents
            return _cotangents(x, w, m, torch.rsqrt(v + ctx.eps), dy=dy, dm=dm, dv=dv)

        # m and v came from _Normalize, so their cotangents go back to x through it.
        pulled: Any = torch.func.vjp(plain, x, w, m, v, dy, dm, dv)
        return *pulled[1]((gx, gw, gb)), None

    @staticmethod
    def jvp(
        ctx: Any,
        tx: Tensor,
        tw: Tensor,
        tm: Tensor,
        tv: Tensor,
        tdy: Tensor,
        tdm: Tensor,
        tdv: Tensor,
        _: None,
    ) -> Any:
        x, w, m, v, dy, _, dv, c, a = ctx.saved_tensors
        n = x.numel() // x.shape[1]
        r = torch.rsqrt(v + ctx.eps)
        tr = -0.5 * r * r * r * tv
        h = (x - per_channel(m, x)) * per_channel(r, x)
        th = (tx - per_channel(tm, x)) * per_channel(r, x) + h * per_channel(tr / r, x)
        ta, tc = tdy.sum(_dims(x)), (tdy * h + dy * th).sum(_dims(x))
        wr, twr = w * r, w * tr + tw * r
        k1 = (2 * dv / r - wr * c) / n
        tk0 = (tdm - twr * a - wr * ta) / n
        tk1 = (2 * tdv / r - 2 * dv * tr / (r * r) - twr * c - wr * tc) / n
        tdx = (
            per_channel(twr, x) * dy
            + per_channel(wr, x) * tdy
            + per_channel(tk0, x)
            + per_channel(tk1, x) * h
            + per_channel(k1, x) * th
        )
        return tdx, tc, ta
