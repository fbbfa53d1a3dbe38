"""Ordinary training: AdamW with a cosine schedule, for as many steps as the images are worth.

Below `baselines`, which trains on real images, and `training`, which trains networks on distilled
ones that the recipe was not made for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dd_plugin.bilevel import logits_of
from dd_plugin.evaluation.memory_layout import fastest_layout
from dd_plugin.evaluation.scores import share_right

LARGEST_BATCH = 64
# Passes over the images, as long as that is neither too few steps nor too many.
EPOCHS = 20
FEWEST_STEPS = 200
MOST_STEPS = 800


def batch_size(images: int | None) -> int:
    """Return the number of images in a step: all of them, 64 at most; None is a stream."""
    return LARGEST_BATCH if images is None else min(LARGEST_BATCH, images)


def training_steps(images: int | None) -> int:
    """Return the steps of ordinary training on so many images; None is a stream.

    Twenty passes over the images in batches of `batch_size`, but 200 steps at least and 800 at
    most.
    """
    if images is None:
        return MOST_STEPS
    passes = EPOCHS * math.ceil(images / batch_size(images))
    return min(max(passes, FEWEST_STEPS), MOST_STEPS)


def train_on_real(
    network: nn.Module,
    batch: Callable[[int], tuple[Tensor, Tensor]],
    steps: int,
    *,
    learning_rate: float = 2e-3,
    weight_decay: float = 1e-2,
    autocast: torch.dtype | None = None,
) -> None:
    """Train a network in place.

    Args:
        network: any classifier.
        batch: step to network input and class indices or probabilities.
        steps: how many.
        learning_rate: at the start; it falls to 0 along half a cosine.
        weight_decay: of AdamW.
        autocast: the dtype of `torch.autocast` in the forward pass, or None.
    """
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
    with fastest_layout(network) as arranged:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            images, labels = batch(step)
            with torch.enable_grad():
                loss = _loss(network, arranged(images), labels, autocast)
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()


def _loss(
    network: nn.Module, images: Tensor, labels: Tensor, autocast: torch.dtype | None
) -> Tensor:
    if autocast is None:
        return F.cross_entropy(logits_of(network(images)), labels)
    with torch.autocast(images.device.type, autocast):
        logits = logits_of(network(images))
    return F.cross_entropy(logits.to(images.dtype), labels)


@torch.no_grad()
def accuracy_of_module(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the accuracy of an ordinary network in eval mode; its mode is put back."""
    was_training = network.training
    network.eval()
    with fastest_layout(network) as arranged:
        accuracy = share_right(lambda images: logits_of(network(arranged(images))), batches)
    network.train(was_training)
    return accuracy
