"""The sum of two gradients of a kernel: two convolutions and an addition, beside one convolution.

    python -m tests.benchmarks.kernel_gradients --json FILE

The shapes are those of a ResNet-18 and of a ConvNet on images of 32x32, with the channels last. A
trace has the one convolution where the kernel is larger than images and slopes together, "as a
trace has it" says which. On one thread, in turns, with freed memory kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dd_plugin import keep_freed_memory
from tests.benchmarks.measuring import Results, ratio_in_turns

# (channels in, channels out, side of the image, stride)
LAYERS = {
    "ConvNet, 32 to 32, 16x16": (32, 32, 16, 1),
    "ResNet-18, 64 to 64, 8x8": (64, 64, 8, 1),
    "ResNet-18, 128 to 128, 4x4": (128, 128, 4, 1),
    "ResNet-18, 128 to 256, 4x4": (128, 256, 4, 2),
    "ResNet-18, 256 to 256, 2x2": (256, 256, 2, 1),
}
IMAGES = (20, 100)
_ROUNDS = 31

aten = torch.ops.aten


def ways_of(layer: str, images: int) -> tuple[Callable[[], Tensor], Callable[[], Tensor], bool]:
    """The two ways to take the sum, and whether a trace takes the second."""
    channels, out, side, stride = LAYERS[layer]
    last = torch.channels_last

    def pair(*shape: int) -> list[Tensor]:
        return [torch.randn(*shape).contiguous(memory_format=last) for _ in range(2)]

    x, slopes = (
        pair(images, channels, side, side),
        pair(images, out, side // stride, side // stride),
    )
    (w, _) = pair(out, channels, 3, 3)
    how: tuple[Any, ...] = (None, [stride] * 2, [1, 1], [1, 1], False, [0, 0], 1)

    def gradient(slope: Tensor, image: Tensor) -> Tensor:
        backward = aten.convolution_backward.default
        found: Tensor = backward(slope, image, w, *how, [False, True, False])[1]
        return found

    def two() -> Tensor:
        return gradient(slopes[0], x[0]) + gradient(slopes[1], x[1])

    def one() -> Tensor:
        return gradient(torch.cat(slopes), torch.cat(x))

    return two, one, w.numel() >= x[0].numel() + slopes[0].numel()


def measure(layer: str, images: int) -> dict[str, Any]:
    """The row of a layer."""
    two, one, is_taken = ways_of(layer, images)
    torch.testing.assert_close(one(), two(), rtol=1e-3, atol=1e-2)
    times = ratio_in_turns(two, one, _ROUNDS, dropped=1)
    return {"layer": layer, "images": images, "is_taken": is_taken, **times}


@torch.no_grad()
def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    command = "python -m tests.benchmarks.kernel_gradients"
    results = Results(options.json, command, ("layer", "images"))
    for layer in LAYERS:
        for images in IMAGES:
            if {"layer": layer, "images": images} not in results:
                results.add([measure(layer, images)])


if __name__ == "__main__":
    main()
