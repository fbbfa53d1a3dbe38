"""A case of the fuzz, all of it decided by its number."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from dd_plugin.bilevel import (
    Device,
    Full,
    Host,
    Last,
    Optimizer,
    Recompute,
    adam,
    adamw,
    sgd,
    windows,
)
from tests.bilevel.fuzz.losses import LOSSES
from tests.bilevel.fuzz.networks import CLASSES, network

IMAGES, OUTER_IMAGES, CHANNELS = 4, 5, 3
# A larger eps than usual: beside a gradient of 0 Adam makes rounding errors into steps.
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": sgd,
    "sgd, momentum": lambda **how: sgd(0.9, **how),
    "sgd, dampening": lambda **how: sgd(0.8, dampening=0.1, **how),
    "sgd, nesterov": lambda **how: sgd(0.9, nesterov=True, **how),
    "sgd, weight decay": lambda **how: sgd(0.5, weight_decay=0.05, **how),
    "adam": lambda **how: adam((0.8, 0.9), eps=1e-2, **how),
    "adam, weight decay": lambda **how: adam((0.8, 0.9), eps=1e-2, weight_decay=0.05, **how),
    "adamw": lambda **how: adamw((0.8, 0.9), eps=1e-2, weight_decay=0.1, **how),
}


def _group(name: str) -> str:
    return "head" if name.startswith("head") else "body"


@dataclass
class Case:
    """What one number means.

    Attributes:
        number: its number.
        model: the network, in float64.
        problem: the arguments of `BilevelProblem` beside it.
        arguments: those of `hypergradient` beside ``method``.
        features: what the case has, for the counts.
        traced: whether it is also run traced; ``batched``: whether several networks at once are.
        leaves: the tensors that the inputs are made from; none where they are given as they are.
    """

    number: int
    model: nn.Module
    problem: dict[str, Any]
    arguments: dict[str, Any]
    features: list[str]
    traced: bool
    batched: bool
    leaves: list[Tensor] = field(default_factory=list)

    def __str__(self) -> str:
        shown = {
            key: getattr(value, "__name__", value)
            for key, value in {**self.problem, **self.arguments}.items()
            if not isinstance(value, (Tensor, list, tuple, Optimizer))
        }
        lines = [f"case {self.number}", f"features: {', '.join(self.features)}"]
        lines += [f"{key}: {value}" for key, value in shown.items()]
        return "\n".join([*lines, repr(self.model)])


class _Made:
    """Batches that a function of the step makes from leaves, with an augmentation that is drawn."""

    def __init__(self, pixels: Tensor, classes: Tensor, soft: bool) -> None:
        self.pixels, self.classes, self.soft = pixels, classes, soft

    def __repr__(self) -> str:
        return f"a function of {tuple(self.pixels.shape)} pixels and {tuple(self.classes.shape)}"

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        images = torch.tanh(self.pixels) * (1 + 0.1 * step)
        if torch.rand(()) < 0.5:
            images = images.flip(-1)
        images = images + 0.05 * torch.randn(images.shape, dtype=images.dtype)
        return images, self.classes.softmax(1) if self.soft else self.classes.argmax(1)


def _step_size(rng: Random, steps: int, features: list[str]) -> tuple[Any, bool]:
    """A step size and whether it is per group."""
    shape = rng.choice(("number", "scalar", "per step", "per group", "per group and step"))
    features.append(f"step size: {shape}")

    def draw(*size: int) -> Tensor:
        return (0.02 + 0.06 * torch.rand(size, dtype=torch.float64)).requires_grad_()

    if shape == "number":
        return 0.05, False
    if shape == "scalar":
        return draw(), False
    if shape == "per step":
        return draw(steps), False
    sizes = (steps,) if shape == "per group and step" else ()
    return {"head": draw(), "body": draw(*sizes)}, True


def make(number: int) -> Case:
    """The case of a number."""
    rng = Random(f"fuzz {number}")
    with torch.random.fork_rng():
        torch.manual_seed(rng.randrange(1 << 30))
        return _make(number, rng)


def _make(number: int, rng: Random) -> Case:
    side = rng.choice((5, 6, 8))
    model, features, stock = network(rng, CHANNELS, side)
    steps = rng.choice((2, 3, 3))
    step_size, grouped = _step_size(rng, steps, features)
    name = rng.choice(list(OPTIMIZERS))
    features.append(name)
    inner, outer = rng.choice(list(LOSSES)), rng.choice(list(LOSSES))
    features += [f"inner loss: {inner}", f"outer loss: {outer}"]
    problem: dict[str, Any] = {
        "optimizer": OPTIMIZERS[name](**({"groups": _group} if grouped else {})),
        "inner_loss": LOSSES[inner],
        "outer_loss": LOSSES[outer],
        "stock_statistics": stock,
        "outer_training": rng.random() < 0.2,
    }
    if problem["outer_training"]:
        features.append("outer loss in train mode")
    window = rng.choice((Full(), Full(), Last(1), Last(2), windows.Random(2)))
    storage = rng.choice(
        (None, Device(1), Device(2), Device(2, activations=1 << 30), Host(2), Recompute(2))
    )
    features += [f"window: {type(window).__name__}", f"storage: {type(storage).__name__}"]
    arguments: dict[str, Any] = {
        "step_size": step_size,
        "window": window,
        "storage": storage,
        "seed": rng.randrange(1000),
    }
    soft, how = rng.random() < 0.5, rng.choice(("list", "list from leaves", "function"))
    features += ["soft labels" if soft else "class indices", f"batches: {how}"]
    leaves = _data(arguments, rng, side, steps, soft, how, features)
    return Case(
        number,
        model,
        problem,
        arguments,
        features,
        traced=number % 3 == 2,
        batched=number % 3 == 1 and not problem["outer_training"],
        leaves=leaves,
    )


def _data(
    arguments: dict[str, Any],
    rng: Random,
    side: int,
    steps: int,
    soft: bool,
    how: str,
    features: list[str],
) -> list[Tensor]:
    """Put the batches into the arguments; returns the leaves."""
    shape = (CHANNELS, side, side)
    last = rng.random() < 0.15
    if last:
        features.append("channels last")

    def draw(size: int) -> Tensor:
        images = torch.randn(size, *shape, dtype=torch.float64)
        return images.to(memory_format=torch.channels_last) if last else images

    def hard(size: int) -> tuple[Tensor, Tensor]:
        return draw(size), torch.randint(CLASSES, (size,))

    outer = [hard(size) for size in rng.choice(((OUTER_IMAGES,), (OUTER_IMAGES,), (3, 2)))]
    arguments["outer_batch"] = outer[0] if len(outer) == 1 else outer
    pixels = draw(IMAGES).requires_grad_()
    classes = torch.randn(IMAGES, CLASSES, dtype=torch.float64).requires_grad_(soft)
    leaves = [pixels, classes] if soft else [pixels]
    if how == "function":
        arguments |= {"batches": _Made(pixels, classes, soft), "steps": steps}
    elif how == "list from leaves":
        make = _Made(pixels, classes, soft)
        arguments["batches"] = [make(step) for step in range(steps)]
    else:
        leaves = []
        labels = classes.detach().softmax(1) if soft else classes.argmax(1)
        sizes = (2, 3, 4) if rng.random() < 0.2 else (IMAGES,) * 3
        if sizes[0] < IMAGES:
            features.append("batches of several sizes")
        arguments["batches"] = [
            (draw(sizes[step]), labels.roll(step, 0)[: sizes[step]]) for step in range(steps)
        ]
    sizes_of_steps = arguments["step_size"]
    if leaves:
        given = sizes_of_steps.values() if isinstance(sizes_of_steps, dict) else [sizes_of_steps]
        leaves += [t for t in given if isinstance(t, Tensor)]
        arguments["leaves"] = leaves
    return leaves


def source(case: Case) -> str:
    """The losses of a case, as code."""
    return "\n".join(inspect.getsource(case.problem[key]) for key in ("inner_loss", "outer_loss"))
