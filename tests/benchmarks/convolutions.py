"""The time of a network's convolutions and linear layers alone: what no tool can go below.

Used by the benchmark `hypergradient`. Of each layer the product forward, the one back to its input
and the one to its weight are timed, as often as a training step and a sweep need them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from dd_plugin.bilevel.tracing.products import onednn_is_faster
from dd_plugin.private import ONEDNN_LINEAR

_REPEATS = 5


def floor_of(model: nn.Module, images: Tensor, *, kept: bool) -> float:
    """Return the seconds of one inner step and its sweep, in convolutions and products alone.

    Args:
        model: in train mode.
        images: an inner batch.
        kept: the sweep takes over the activations of the step.
    """
    total = 0.0
    for place, (layer, x) in enumerate(_layers(model, images)):
        forward, to_input, to_weight = (_seconds(run) for run in _products(layer, x))
        step = forward + to_weight + (to_input if place else 0.0)
        again = 0.0 if kept else forward + to_input
        total += step + again + 2 * (forward + to_input + to_weight)
    return total


def judging_floor(model: nn.Module, images: Tensor) -> float:
    """Return the same of the outer loss and its gradient."""
    total = 0.0
    for place, (layer, x) in enumerate(_layers(model, images)):
        forward, to_input, to_weight = (_seconds(run) for run in _products(layer, x))
        total += forward + to_weight + (to_input if place else 0.0)
    return total


def _layers(model: nn.Module, images: Tensor) -> list[tuple[nn.Module, Tensor]]:
    """Return the layers with products, and what each gets, in order."""
    found: list[tuple[nn.Module, Tensor]] = []

    def note(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        found.append((layer, inputs[0].detach()))

    handles = [
        layer.register_forward_hook(note)
        for layer in model.modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return found


def _products(layer: Any, x: Tensor) -> list[Callable[[], Any]]:
    w = layer.weight.detach()
    if isinstance(layer, nn.Linear):
        x = x.reshape(-1, x.shape[-1])
        y = torch.randn(len(x), len(w), dtype=x.dtype, device=x.device)
        weight = y.t().contiguous()
        return [
            lambda: _multiplied(x, w),
            lambda: _multiplied(y, w.t()),
            lambda: _multiplied(weight, x.t()),
        ]
    how: tuple[Any, ...] = (layer.stride, layer.padding, layer.dilation, layer.groups)
    y = torch.randn_like(F.conv2d(x, w, None, *how))
    return [
        lambda: F.conv2d(x, w, None, *how),
        lambda: conv2d_input(x.shape, w, y, *how),
        lambda: conv2d_weight(x, w.shape, y, *how),
    ]


def _multiplied(x: Tensor, weight: Tensor) -> Tensor:
    """Return ``x @ weight.T`` by the library that is the faster one on this processor."""
    if ONEDNN_LINEAR is not None and onednn_is_faster() and x.dtype == torch.float32:
        product: Tensor = ONEDNN_LINEAR(x, weight, None, "none", [], "")
        return product
    return F.linear(x, weight)


@torch.no_grad()
def _seconds(run: Callable[[], Any]) -> float:
    times = []
    for _ in range(_REPEATS + 1):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])
