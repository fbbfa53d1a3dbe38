"""Random networks: layers for images, tokens and vectors, one after the other, and a head."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations

from dd_plugin.bn import convert_bn
from tests.bilevel.fuzz import layers, operations
from tests.bilevel.fuzz.grammar import ANYWHERE, Grammar, chosen

CLASSES = 3
POLICIES: tuple[Any, ...] = (
    "stock tracked",
    "stock constant",
    *((kind, by) for kind in ("tracked", "learned", "frozen") for by in ("batch", "running")),
)


# --- images ------------------------------------------------------------------------------------


def parametrized(g: Grammar, layer: nn.Module) -> nn.Module:
    if g.rng.random() < 0.6:
        return layer
    how = g.of("", ("weight norm", "spectral norm"))
    one = parametrizations.weight_norm if how == "weight norm" else parametrizations.spectral_norm
    return one(layer)


def convolution(g: Grammar, same: bool = False) -> nn.Module:
    """A convolution; ``same`` keeps the shape."""
    kinds = ["conv", "depthwise", "dilated", "standardized"]
    kinds += [] if same else ["strided", "transposed", "grouped", "one by one"]
    kind, c, bias = g.of("", kinds), g.channels, g.rng.random() < 0.5
    width = c if same or kind == "depthwise" else g.rng.choice((2, 4))
    groups = {"depthwise": c, "grouped": 2 - c % 2}.get(kind, 1)
    g.channels = width
    if kind == "standardized":
        return layers.StandardizedConv(c, width, 3, bias=bias)
    if kind == "transposed":
        made: nn.Module = nn.ConvTranspose2d(c, width, 3, 1, 1, bias=bias)
    elif kind == "strided" and g.side >= 4:
        made = nn.Conv2d(c, width, 2, 2, bias=bias)
        g.side //= 2
    elif kind == "one by one":
        made = nn.Conv2d(c, width, 1, bias=bias)
    else:
        mode: Any = g.of("padding", ("zeros", "reflect", "circular", "replicate"))
        by = 2 if kind == "dilated" else 1
        mode = mode if g.side > 2 and by == 1 else "zeros"
        made = nn.Conv2d(c, width, 3, 1, by, by, groups=groups, bias=bias, padding_mode=mode)
    return parametrized(g, made)


def norm(g: Grammar) -> nn.Module:
    c = g.channels
    if g.shape == "tokens":
        kind = g.of("", ("LayerNorm", "RMSNorm"))
        return nn.LayerNorm(c) if kind == "LayerNorm" else nn.RMSNorm(c, eps=1e-2)
    if g.shape == "vector":
        kind = g.of("", ("BatchNorm1d", "LayerNorm"))
        return nn.BatchNorm1d(c, eps=1e-2) if kind == "BatchNorm1d" else nn.LayerNorm(c, eps=1e-2)
    kinds: dict[str, Callable[[], nn.Module]] = {
        "BatchNorm2d": lambda: nn.BatchNorm2d(c, eps=1e-3, momentum=g.rng.choice((0.1, 0.3))),
        "BatchNorm2d cumulative": lambda: nn.BatchNorm2d(c, eps=1e-3, momentum=None),
        "BatchNorm2d without affine": lambda: nn.BatchNorm2d(c, eps=1e-3, affine=False),
        "BatchNorm2d untracked": lambda: nn.BatchNorm2d(c, eps=1e-3, track_running_stats=False),
        "InstanceNorm2d": lambda: nn.InstanceNorm2d(c, eps=1e-2, affine=True),
        "InstanceNorm2d tracked": lambda: nn.InstanceNorm2d(
            c, eps=1e-2, affine=True, track_running_stats=True
        ),
        "GroupNorm": lambda: nn.GroupNorm(2 - c % 2, c, eps=1e-2),
        "LocalResponseNorm": lambda: nn.LocalResponseNorm(2),
        "LayerNorm of images": lambda: nn.LayerNorm([c, g.side, g.side], eps=1e-2),
    }
    # BatchNorm is what the engine is about.
    name = g.rng.choice(["BatchNorm2d"] * 6 + list(kinds))
    g.features.append(name)
    return kinds[name]()


def pool(g: Grammar) -> nn.Module:
    kinds: dict[str, Callable[[], nn.Module]] = {
        "MaxPool": lambda: nn.MaxPool2d(2),
        "AvgPool": lambda: nn.AvgPool2d(2),
        "LPPool": lambda: nn.Sequential(nn.Softplus(), nn.LPPool2d(3, 2)),
        "AdaptiveMaxPool": lambda: nn.AdaptiveMaxPool2d(g.side // 2),
        "AdaptiveAvgPool": lambda: nn.AdaptiveAvgPool2d(g.side // 2),
        "FractionalMaxPool": lambda: nn.FractionalMaxPool2d(2, g.side // 2),
    }
    still: dict[str, Callable[[], nn.Module]] = {
        "MaxPool overlapping": lambda: nn.MaxPool2d(3, 1, 1),
        "AvgPool overlapping": lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    }
    name = g.of("", {**kinds, **still} if g.side >= 4 else still)
    if name in still:
        return still[name]()
    made = kinds[name]()
    g.side //= 2
    return made


def residual(g: Grammar) -> nn.Module:
    how = g.of("residual", layers.Residual.CHOICES)
    branch = nn.Sequential(convolution(g, same=True), norm(g))
    return layers.Residual(how, branch)


def twice(g: Grammar) -> nn.Module:
    g.features.append("used twice")
    if g.shape != "image":
        return layers.Twice(parametrized(g, nn.Linear(g.channels, g.channels)))
    inside: list[nn.Module] = [convolution(g, same=True)]
    if g.rng.random() < 0.5:
        inside.append(norm(g))
    return layers.Twice(nn.Sequential(*inside))


def checkpointed(g: Grammar) -> nn.Module:
    how = g.of("checkpoint", operations.Checkpointed.CHOICES)
    return operations.Checkpointed(how, nn.Sequential(convolution(g, same=True), norm(g)))


IMAGES: dict[str, Callable[[Grammar], nn.Module]] = {
    "convolution": convolution,
    "norm": norm,
    "pool": pool,
    "residual": residual,
    "twice": twice,
    "functional": chosen("functional", operations.Functional, "channels"),
    "checkpoint": checkpointed,
    "resample": chosen("resample", layers.Resample, "channels"),
}


# --- tokens and vectors ------------------------------------------------------------------------


def linear(g: Grammar) -> nn.Module:
    width, c = g.rng.choice((4, 6)), g.channels
    g.channels = width
    if g.rng.random() < 0.15:
        how = g.of("orthogonal", ("cayley", "householder", "matrix_exp"))
        return parametrizations.orthogonal(nn.Linear(c, width), orthogonal_map=how)
    g.features.append("Linear")
    return parametrized(g, nn.Linear(c, width))


def perceptron(g: Grammar) -> nn.Module:
    g.features.append("MLP")
    c = g.channels
    inside = nn.Sequential(nn.LayerNorm(c), nn.Linear(c, 2 * c), nn.GELU(), nn.Linear(2 * c, c))
    return layers.Residual(g.of("residual", layers.Residual.CHOICES), inside)


TOKENS: dict[str, Callable[[Grammar], nn.Module]] = {
    "attention": chosen("attention", layers.Attention, "channels"),
    "norm": norm,
    "MLP": perceptron,
    "recurrent": chosen("recurrent", operations.Recurrent, "channels"),
    "tied": chosen("tied", layers.Tied, "channels"),
    "twice": twice,
}
VECTORS: dict[str, Callable[[Grammar], nn.Module]] = {
    "linear": linear,
    "norm": norm,
    "tied": chosen("tied", layers.Tied, "channels"),
    "twice": twice,
}


# --- a network ---------------------------------------------------------------------------------


def some(g: Grammar, table: dict[str, Callable[[Grammar], nn.Module]], number: int) -> list[Any]:
    """Layers of a table and of those that go anywhere, two to one."""
    made: list[nn.Module] = []
    for _ in range(number):
        names = list(table) if g.rng.random() < 2 / 3 else list(ANYWHERE)
        name = g.rng.choice(names)
        made.append((table if name in table else ANYWHERE)[name](g))
    return made


def network(rng: Random, channels: int, side: int) -> tuple[nn.Module, list[str], str]:
    """A random network, what it has, and what stock BatchNorm layers do; torch's seed counts."""
    g = Grammar(rng, channels, side)
    body: list[nn.Module] = [convolution(g), *some(g, IMAGES, rng.choice((1, 2, 3)))]
    if rng.random() < 0.4:
        how = g.of("tokens", layers.Tokens.CHOICES)
        body.append(layers.Tokens(how, g.channels, g.side, 4))
        g.channels, g.shape = 4, "tokens"
        body += some(g, TOKENS, rng.choice((1, 2)))
        body.append(layers.Mean(g.of("pooled by", layers.Mean.CHOICES)))
    elif rng.random() < 0.5:
        body.append(layers.Mean(g.of("pooled by", layers.Mean.CHOICES)))
    else:
        body.append(nn.Flatten())
        g.channels *= g.side**2
    g.shape = "vector"
    if g.channels > 8:
        body.append(nn.Linear(g.channels, 5))
        g.channels = 5
    body += some(g, VECTORS, rng.choice((0, 0, 1, 2)))
    net = nn.Sequential()
    net.add_module("body", nn.Sequential(*body))
    net.add_module("head", parametrized(g, nn.Linear(g.channels, CLASSES)))
    stock = generic(g, net)
    return net.double(), g.features, stock


def generic(g: Grammar, net: nn.Module) -> str:
    """Give everything values that are nothing special; convert and freeze some of it."""
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "parametrizations" not in name:
                p.add_(0.1 * torch.randn_like(p))
        for name, b in net.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                b.add_(0.5 * torch.rand_like(b))
    stock = "tracked"
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules()):
        policy = g.of("BatchNorm", POLICIES)
        if isinstance(policy, str):
            stock = policy.removeprefix("stock ")
        else:
            convert_bn(net, *policy)
            for name, b in net.named_buffers():
                if name.endswith(("momentum_shift", "mean_correction", "var_correction")):
                    b.fill_(0.2)
    if g.rng.random() < 0.1:
        g.features.append("frozen first layer")
        next(next(net.children()).children()).requires_grad_(False)
    return stock
