"""What a distilled set has to be compared with: ordinary training on real images.

Beside `scores`. Networks with their stock layers, AdamW with a cosine schedule, the same transform
and augmentation as the distilled set. Random real images get many more steps than the distilled
ones do, so that the comparison is with what those images can give, not with an unfinished run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dd_plugin.bilevel import logits_of
from dd_plugin.evaluation.scores import share_right


def train_on_real(
    network: nn.Module,
    batch: Callable[[int], tuple[Tensor, Tensor]],
    steps: int,
    *,
    learning_rate: float = 2e-3,
    weight_decay: float = 1e-2,
) -> None:
    """Train a network in place.

    Args:
        network: any classifier.
        batch: step to network input and class indices.
        steps: how many.
        learning_rate: at the start; it falls to 0 along half a cosine.
        weight_decay: of AdamW.
    """
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        images, labels = batch(step)
        with torch.enable_grad():
            loss = F.cross_entropy(logits_of(network(images)), labels)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()


@torch.no_grad()
def accuracy_of_module(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The accuracy of an ordinary network in eval mode; its mode is put back."""
    was_training = network.training
    network.eval()
    accuracy = share_right(lambda images: logits_of(network(images)), batches)
    network.train(was_training)
    return accuracy
