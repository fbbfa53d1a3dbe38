"""The baselines of a distilled set: ordinary training on real images.

After `scores` and `preparation`. Networks have their stock layers, and are trained by AdamW with a
cosine schedule and the transform and augmentation of the distilled set. Random real images get many
more steps than the distilled ones do, so that the comparison is with what those images can give,
not with an unfinished run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dd_plugin.bilevel import logits_of
from dd_plugin.data import RealData
from dd_plugin.evaluation.preparation import Prepare
from dd_plugin.evaluation.scores import share_right
from dd_plugin.seeds import Purpose, mix, nth_seed, seeded_generators

# Steps of ordinary training on a handful of images, and images seen in all when there are many.
FEW_STEPS = 400
MANY_IMAGES = 60_000
LARGEST_BATCH = 256
_BATCH = 128


def train_on_few(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    prepare: Prepare,
    seed: int,
    *,
    steps: int = FEW_STEPS,
) -> None:
    """Train a network in place on a handful of images, real or distilled.

    Args:
        network: any classifier.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: class indices ``(N,)`` or probabilities ``(N, classes)``.
        prepare: makes network input of them.
        seed: decides batches (of 256 images where there are more) and augmentation.
        steps: how many.
    """

    def batch(step: int) -> tuple[Tensor, Tensor]:
        now = nth_seed(seed, step)
        generator = torch.Generator().manual_seed(now)
        chosen = torch.randperm(len(labels), generator=generator)[:LARGEST_BATCH].to(labels.device)
        return prepare(images[chosen], labels[chosen], now)

    train_on_real(network, batch, steps)


def train_on_random_real(
    network: nn.Module, data: RealData, per_class: int, prepare: Prepare, seed: int
) -> None:
    """Train a network in place on a few real images of each class, drawn by the seed.

    Dropout and the like draw from it as well; the global generators are put back.
    """
    with seeded_generators(seed):
        images, labels = data.of_each_class(per_class, mix(seed, Purpose.REAL_BASELINE_IMAGES))
        training_seed = mix(seed, Purpose.REAL_BASELINE_TRAINING)
        train_on_few(network, images, labels, prepare=prepare, seed=training_seed)


def train_on_all(network: nn.Module, data: RealData, prepare: Prepare, seed: int) -> None:
    """Train a network in place on all real images; 60,000 of them, with repetition.

    Randomness is that of `train_on_random_real`.
    """

    def batch(step: int) -> tuple[Tensor, Tensor]:
        now = nth_seed(mix(seed, Purpose.FULL_BASELINE_TRAINING), step)
        return prepare(*data.batch(_BATCH, now), now)

    with seeded_generators(seed):
        train_on_real(network, batch, max(FEW_STEPS, MANY_IMAGES // _BATCH))


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
    """Return the accuracy of an ordinary network in eval mode; its mode is put back."""
    was_training = network.training
    network.eval()
    accuracy = share_right(lambda images: logits_of(network(images)), batches)
    network.train(was_training)
    return accuracy
