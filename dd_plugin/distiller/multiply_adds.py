"""The multiply-adds of a forward pass: what the rule of `defaults` knows about a network.

Used by `parts`. Convolutions and matrix products are counted, by the shapes of their tensors, so
the number is the same on every machine.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dd_plugin.distiller.architectures import Architectures
from dd_plugin.networks import Backbone
from dd_plugin.seeds import Purpose, mix, untouched_generators

# Some networks take no single image.
_IMAGES = 2


def of_architectures(architectures: Architectures, shape: tuple[int, int, int]) -> float:
    """Return the multiply-adds of an image in a forward pass, as the mean over the architectures.

    Args:
        architectures: the networks of a run, without their problems.
        shape: channels, height and width of the images.
    """
    with untouched_generators():
        counts = []
        for networks in architectures.members:
            model = networks.new_model(mix(networks.seed, Purpose.COUNTED_WORK))
            counts.append(_of_forward(model, shape, networks.device, networks.dtype))
    return sum(counts) / len(counts)


def of_backbones(backbones: list[Backbone], shape: tuple[int, int, int]) -> float:
    """Return the same for frozen networks, at the size that they bring images to."""
    with untouched_generators():
        counts = []
        for backbone in backbones:
            weight = next(backbone.parameters())
            counts.append(_of_forward(backbone, shape, weight.device, weight.dtype))
    return sum(counts) / len(counts)


def _of_forward(
    network: nn.Module, shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype
) -> float:
    was_training = network.training
    network.eval()
    images = torch.zeros(_IMAGES, *shape, device=device, dtype=dtype)
    with torch.no_grad():
        network(images)  # a frozen network looks at one image more in its first pass
        with FlopCounterMode(display=False) as counter:
            network(images)
    network.train(was_training)
    # A multiply-add is two operations.
    return float(counter.get_total_flops()) / 2 / _IMAGES
