"""The memory layout in which a network of convolutions computes fastest on a processor.

Below `ordinary`. With channels last an ordinary training step of a ConvNet takes less time, with
bfloat16 even less (`python -m tests.benchmarks.ordinary_step`). Results differ by rounding. The
choice depends on the network and its input alone, never on a clock, so that two evaluations of a
set do the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dd_plugin.bilevel import logits_of
from dd_plugin.bilevel.copying import copy_model
from dd_plugin.networks.checks import MISFITS
from dd_plugin.seeds import untouched_generators

_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


@contextmanager
def fastest_layout(network: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    """Keep a network in its fastest layout, and yield what brings its input into that layout.

    The first input decides. On exit the weights lie in memory as they usually do.
    """
    chosen: list[torch.memory_format] = []

    def arranged(images: Tensor) -> Tensor:
        if not chosen:
            last = takes_channels_last(network, images)
            chosen.append(torch.channels_last if last else torch.contiguous_format)
            if last:
                network.to(memory_format=torch.channels_last)
        last = chosen[0] is torch.channels_last
        return images.contiguous(memory_format=torch.channels_last) if last else images

    try:
        yield arranged
    finally:
        if torch.channels_last in chosen:
            network.to(memory_format=torch.contiguous_format)


def takes_channels_last(network: nn.Module, images: Tensor) -> bool:
    """Return whether a network computes faster, and without an error, with channels last.

    Known for float32 on a processor alone. A network may be written for the usual layout (``view``
    of features is an error in the other one), so a copy of it tries two images.
    """
    if images.ndim != 4 or images.device.type != "cpu" or images.dtype != torch.float32:
        return False
    modules = list(network.modules())
    # A single convolution, as in a ViT, is no matter.
    if sum(isinstance(m, nn.Conv2d) for m in modules) < 2:
        return False
    if any(map(_is_by_channel, modules)):
        return False
    try:
        copied = copy_model(network).to(memory_format=torch.channels_last)
        with untouched_generators():
            logits = logits_of(copied(images[:2].contiguous(memory_format=torch.channels_last)))
            if logits.requires_grad:
                logits.sum().backward()
    except MISFITS:
        return False
    return True


def _is_by_channel(layer: nn.Module) -> bool:
    """Whether a layer computes channel by channel, which takes longer with channels last."""
    if isinstance(layer, nn.GroupNorm):
        return layer.num_groups == layer.num_channels
    return isinstance(layer, _INSTANCE_NORMS)
