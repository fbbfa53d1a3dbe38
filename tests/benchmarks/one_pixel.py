"""Convolutions to one pixel: torch's own, beside the products that a trace has in their place.

    python -m tests.benchmarks.one_pixel --json FILE

The shapes are those of the last stage of a ResNet-18 on images of 32x32. A gradient for a kernel, a
convolution, and a gradient for images are timed in turns, on one thread, each as torch computes it
and as the graph does after `one_pixel`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dd_plugin.bilevel.tracing.compile import TracedGraph, make_graph
from dd_plugin.bilevel.tracing.passes import clean
from tests.benchmarks.measuring import Results, ratio_in_turns

# (channels in, channels out, side of the image, kernel, stride)
LAYERS = {
    "512 to 512, 3x3": (512, 512, 1, 3, 1),
    "256 to 512, 1x1, stride 2": (256, 512, 2, 1, 2),
}
IMAGES = (10, 20, 50)
_ROUNDS = 15

Run = Callable[[], list[Tensor]]


def passes_of(layer: str, images: int) -> dict[str, tuple[Run, Run]]:
    """By name, what is computed: torch's way, and as a product."""
    channels, out, side, kernel, stride = LAYERS[layer]
    x, w = torch.randn(images, channels, side, side), torch.randn(out, channels, kernel, kernel)
    slope, pad = torch.randn(images, out, 1, 1), kernel // 2
    how: tuple[Any, ...] = (None, [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], 1)
    backward = torch.ops.aten.convolution_backward.default

    def forward(tensors: list[Tensor]) -> list[Tensor]:
        x, w, _ = tensors
        return [torch.ops.aten.convolution.default(x, w, *how)]

    def for_images(tensors: list[Tensor]) -> list[Tensor]:
        x, w, slope = tensors
        return [backward(slope, x, w, *how, [True, False, False])[0]]

    def for_kernel(tensors: list[Tensor]) -> list[Tensor]:
        x, w, slope = tensors
        return [backward(slope, x, w, *how, [False, True, False])[1]]

    tensors = [x, w, slope]
    found: dict[str, tuple[Run, Run]] = {}
    for name, function in (
        ("forward", forward),
        ("for the images", for_images),
        ("for the kernel", for_kernel),
    ):
        product = TracedGraph(clean(make_graph(function, tensors)))
        torch.testing.assert_close(product(tensors), function(tensors), rtol=1e-3, atol=1e-2)
        found[name] = partial(function, tensors), partial(product, tensors)
    return found


def measure(layer: str, images: int) -> list[dict[str, Any]]:
    """The rows of a layer."""
    rows = []
    for name, ways in passes_of(layer, images).items():
        times = ratio_in_turns(*ways, _ROUNDS, dropped=1)
        rows.append({"layer": layer, "images": images, "pass": name, **times})
    return rows


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    command = "python -m tests.benchmarks.one_pixel"
    results = Results(options.json, command, ("layer", "images", "pass"))
    for layer in LAYERS:
        for images in IMAGES:
            if {"layer": layer, "images": images, "pass": "forward"} not in results:
                results.add(measure(layer, images))


if __name__ == "__main__":
    main()
