"""Layers of the fuzz that are one operation of torch, or that are made in an unusual way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.bilevel.fuzz.layers import Described


def _scatter(x: Tensor) -> Tensor:
    index = torch.arange(len(x), device=x.device).flip(0)
    return x.index_add(0, index, 0.5 * x)


def _gather(x: Tensor) -> Tensor:
    return x.gather(-1, x.detach().argsort(-1).roll(1, -1))


def _masked(x: Tensor) -> Tensor:
    y = x.clone()
    y[x > 0.3] = torch.tanh(y[x > 0.3])
    return y


def _whiten(x: Tensor) -> Tensor:
    rows = x.flatten(1)
    gram = rows @ rows.t() / rows.shape[1] + torch.eye(len(x), dtype=x.dtype, device=x.device)
    return (torch.linalg.solve(gram, rows)).view_as(x)


def _sdpa_like(x: Tensor) -> Tensor:
    rows = x.flatten(1)
    return (torch.softmax(rows @ rows.t() / rows.shape[1], -1) @ rows).view_as(x)


OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "cumsum": lambda x: x.cumsum(-1) / x.shape[-1],
    "cumprod": lambda x: (1 + 0.1 * torch.tanh(x)).cumprod(-1),
    # Not logcumsumexp: torch's derivative takes logarithms of gradients, and is NaN where one is 0.
    "logsumexp": lambda x: x - x.logsumexp(-1, keepdim=True),
    "cummax": lambda x: x.cummax(-1).values,
    "sort": lambda x: x.sort(-1).values,
    "gather": _gather,
    "index_add": _scatter,
    "masked": _masked,
    "prod": lambda x: x + 0.1 * torch.tanh(x).prod(-1, keepdim=True),
    "median": lambda x: x - x.median(-1, keepdim=True).values,
    "norm": lambda x: x / (1 + (0.1 + x.abs()).norm(dim=-1, keepdim=True)),
    "amax": lambda x: x - 0.5 * x.amax(-1, keepdim=True),
    "std": lambda x: x / (0.5 + x.std(-1, keepdim=True, unbiased=False).square()),
    "fft": lambda x: torch.fft.irfft(torch.fft.rfft(x) * 0.7, n=x.shape[-1]) + 0.1 * x,
    "solve": _whiten,
    "slogdet": lambda x: x * (1 + 0.1 * torch.linalg.slogdet(_gram(x)).logabsdet),
    "einsum": lambda x: x + 0.1 * torch.einsum("n...,m...->nm", x, x).mean(),
    "softmax": lambda x: x.softmax(-1),
    "attention over examples": _sdpa_like,
    "erf": torch.erf,
    "atan2": lambda x: torch.atan2(x, 1 + x.square()),
    "logaddexp": lambda x: torch.logaddexp(x, -x),
    "where": lambda x: torch.where(x > 0, x.square(), x.sin()),
    "clamp": lambda x: x.clamp(-0.8, 0.9),
    "round": lambda x: x + 0.0 * x.round(),
    "addcdiv": lambda x: torch.addcdiv(x, x.sin(), 2 + x.cos(), value=0.5),
    "lerp": lambda x: torch.lerp(x, x.cos(), 0.3),
    "cosine": lambda x: x * F.cosine_similarity(x, x.roll(1, -1) + 0.1, dim=-1).unsqueeze(-1),
    "cdist": lambda x: x + 0.1 * torch.cdist(x.flatten(1), x.flatten(1) + 0.1).mean(),
    "pow": lambda x: (0.1 + x.square()) ** 0.7,
    "bmm": lambda x: x + 0.1 * torch.bmm(x.flatten(1)[:, :, None], x.flatten(1)[:, None]).mean(),
    "stack": lambda x: torch.stack([x, x.flip(0)]).amax(0),
    "chunk": lambda x: torch.cat([part * k for k, part in enumerate(x.chunk(2), 1)]),
    "nan_to_num": lambda x: torch.nan_to_num(x),
    "dist": lambda x: x * torch.dist(x, torch.zeros_like(x) + 0.1, 3) / x.numel(),
    "log1p": lambda x: torch.log1p(x.abs()) * x.sign(),
    "logit": lambda x: torch.logit(0.1 + 0.8 * x.sigmoid()),
    "sinc": torch.sinc,
    "hypot": lambda x: torch.hypot(x, torch.ones_like(x)),
    "var_mean": lambda x: x + torch.var_mean(x, 0, unbiased=False)[0],
    "conj": lambda x: torch.view_as_real(torch.complex(x, x.sin()).exp() * 0.2).sum(-1),
}


def _gram(x: Tensor) -> Tensor:
    rows = x.flatten(1)
    return rows @ rows.t() / rows.shape[1] + torch.eye(len(x), dtype=x.dtype, device=x.device)


class Operation(Described):
    """One operation."""

    CHOICES = tuple(OPERATIONS)

    def forward(self, x: Tensor) -> Tensor:
        return OPERATIONS[self.how](x)


def _out(y: Tensor) -> None:
    with torch.no_grad():
        torch.add(y, 0.2, out=y)


class Statement(Described):
    """Calls what writes into its input, and does not look at what that returns."""

    CALLS: ClassVar[dict[str, Callable[[Tensor, bool], Any]]] = {
        "relu_": lambda y, training: F.relu_(y),
        "hardsigmoid": lambda y, training: F.hardsigmoid(y, inplace=True),
        "hardswish": lambda y, training: F.hardswish(y, inplace=True),
        "silu": lambda y, training: F.silu(y, inplace=True),
        "mish": lambda y, training: F.mish(y, inplace=True),
        "elu_": lambda y, training: F.elu_(y),
        "threshold": lambda y, training: F.threshold(y, 0.1, 0.2, inplace=True),
        "dropout": lambda y, training: F.dropout(y, 0.3, training, inplace=True),
        "alpha_dropout": lambda y, training: F.alpha_dropout(y, 0.3, training, inplace=True),
        "rrelu": lambda y, training: F.rrelu(y, 0.1, 0.3, training, inplace=True),
        "out": lambda y, training: _out(y),
        "data": lambda y, training: y.data.mul_(0.9),
    }
    CHOICES = tuple(CALLS)

    def forward(self, x: Tensor) -> Tensor:
        y = x * 1.0
        self.CALLS[self.how](y, self.training)
        return y


class Functional(Described):
    """Normalizes by `F.batch_norm` with buffers of its own, or always in eval mode."""

    CHOICES = ("own buffers", "eval mode", "sometimes")
    mean: Tensor
    variance: Tensor

    def __init__(self, how: str, features: int) -> None:
        super().__init__(how)
        self.register_buffer("mean", 0.1 * torch.rand(features))
        self.register_buffer("variance", 0.5 + torch.rand(features))
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "eval mode":
            return F.batch_norm(x, self.mean, self.variance, self.weight)
        y = F.batch_norm(x, self.mean, self.variance, self.weight, None, self.training, 0.2)
        if self.how == "sometimes":
            y = y + F.batch_norm(x, self.mean, self.variance, self.weight)
        return y


class Checkpointed(Described):
    """A branch that is run again on the way back."""

    CHOICES = ("reentrant", "not reentrant")

    def __init__(self, how: str, inside: nn.Module) -> None:
        super().__init__(how)
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inside, x, use_reentrant=self.how == "reentrant")


class Recurrent(Described):
    """A recurrent layer over tokens."""

    CHOICES = ("GRU", "LSTM", "RNN")

    def __init__(self, how: str, width: int) -> None:
        super().__init__(how)
        self.cell = getattr(nn, how)(width, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cell(x)[0]
