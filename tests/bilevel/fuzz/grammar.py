"""What draws a network layer by layer, and the layers that take any shape."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import timm
import torchvision
from torch import nn

from tests.bilevel.fuzz import layers, operations


class Grammar:
    """Draws layers, and keeps track of the shape between them and of what was drawn.

    Attributes:
        features: what the network has, as the counts name it.
        channels: of the activations so far: of an image, of tokens or of a vector.
        side: of the image so far.
    """

    def __init__(self, rng: Random, channels: int, side: int) -> None:
        self.rng, self.channels, self.side = rng, channels, side
        self.features: list[str] = []
        self.shape = "image"

    def of(self, family: str, choices: Any) -> Any:
        """One of the choices, noted down."""
        choice = self.rng.choice(tuple(choices))
        self.features.append(f"{family}: {choice}" if family else str(choice))
        return choice

    @property
    def dim(self) -> int:
        """The dimension of the channels."""
        return {"image": 1, "tokens": 2, "vector": 1}[self.shape]


SMOOTH: tuple[Callable[[], nn.Module], ...] = (
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Softplus,
    nn.Tanh,
    nn.Sigmoid,
    nn.LogSigmoid,
    nn.Softsign,
    nn.Tanhshrink,
    nn.PReLU,
    nn.Softshrink,
    nn.GLU,
)
IN_PLACE: tuple[Callable[..., nn.Module], ...] = (
    nn.ReLU,
    nn.ReLU6,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.SiLU,
    nn.Mish,
    nn.RReLU,
)


def activation(g: Grammar) -> nn.Module:
    in_place = g.rng.random() < 0.6
    make: Any = g.rng.choice(IN_PLACE if in_place else SMOOTH)
    name = getattr(make, "__name__", "")
    if make is nn.GLU:
        g.features.append("GLU")
        if g.channels % 2:
            return nn.Sequential()
        g.channels //= 2
        return nn.GLU(g.dim)
    g.features.append(f"{name} in place" if in_place else name)
    # In place on a value of its own: the input may be one that somebody else needs.
    return nn.Sequential(layers.Written("mul_"), make(inplace=True)) if in_place else make()


def dropout(g: Grammar) -> nn.Module:
    kinds: dict[str, Callable[[], nn.Module]] = {
        "dropout": lambda: nn.Dropout(0.3),
        "dropout in place": lambda: nn.Sequential(layers.Written("mul_"), nn.Dropout(0.3, True)),
        "alpha dropout": lambda: nn.AlphaDropout(0.2),
        "feature alpha dropout": lambda: nn.FeatureAlphaDropout(0.2),
        "stochastic depth": lambda: layers.Residual("sum", layers.DropPath()),
        "timm's depth": lambda: timm.layers.DropPath(0.3),
        "torchvision's depth": lambda: torchvision.ops.StochasticDepth(0.3, "row"),
    }
    if g.shape == "image":
        kinds["channel dropout"] = lambda: nn.Dropout2d(0.3)
    if g.shape == "image" and g.side >= 3:
        kinds["dropblock"] = lambda: torchvision.ops.DropBlock2d(0.2, 3)
    if g.shape == "tokens":
        kinds["dropout of tokens"] = lambda: nn.Dropout1d(0.3)
    return kinds[g.of("", kinds)]()


def chosen(family: str, make: Callable[..., nn.Module], *more: str) -> Callable[..., nn.Module]:
    """A layer of `layers` by one of its choices; ``more`` are attributes of the grammar."""

    def draw(g: Grammar) -> nn.Module:
        how = g.of(family, make.CHOICES)  # type: ignore[attr-defined]
        return make(how, *(getattr(g, name) for name in more))

    return draw


ANYWHERE: dict[str, Callable[[Grammar], nn.Module]] = {
    "activation": activation,
    "dropout": dropout,
    "noise": chosen("noise", layers.Noise),
    "moving average": chosen("moving average", layers.MovingAverage, "channels", "dim"),
    "counter": chosen("counter", layers.Counter),
    "without gradient": chosen("without gradient", layers.Ungraded),
    "written": chosen("written", layers.Written),
    "statement": chosen("statement", operations.Statement),
    "operation": chosen("operation", operations.Operation),
}
