"""The baselines of a distilled set: ordinary training on real images.

After `ordinary` and `preparation`. Networks have their stock layers, and see the transform and
augmentation of the distilled set. Random real images get many more steps than the distilled ones
do, so that the comparison is with what those images can give, not with an unfinished run.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dd_plugin.data import RealData
from dd_plugin.evaluation.ordinary import batch_size, train_on_real, training_steps
from dd_plugin.evaluation.preparation import Prepare
from dd_plugin.seeds import Purpose, mix, nth_seed, seeded_generators


def train_on_few(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    prepare: Prepare,
    seed: int,
    *,
    autocast: torch.dtype | None = None,
) -> None:
    """Train a network in place on a handful of images, real or distilled.

    Args:
        network: any classifier.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: class indices ``(N,)`` or probabilities ``(N, classes)``.
        prepare: makes network input of them.
        seed: decides batches (see `batch_size`) and augmentation.
        autocast: see `train_on_real`.
    """
    size = batch_size(len(labels))

    def batch(step: int) -> tuple[Tensor, Tensor]:
        now = nth_seed(seed, step)
        generator = torch.Generator().manual_seed(now)
        chosen = torch.randperm(len(labels), generator=generator)[:size].to(labels.device)
        return prepare(images[chosen], labels[chosen], now)

    train_on_real(network, batch, training_steps(len(labels)), autocast=autocast)


def train_on_random_real(
    network: nn.Module,
    data: RealData,
    per_class: int,
    prepare: Prepare,
    seed: int,
    *,
    autocast: torch.dtype | None = None,
) -> None:
    """Train a network in place on a few real images of each class, drawn by the seed.

    Dropout and the like draw from it as well; the global generators are put back.
    """
    with seeded_generators(seed):
        images, labels = data.of_each_class(per_class, mix(seed, Purpose.REAL_BASELINE_IMAGES))
    train_on_chosen_real(network, images, labels, prepare, seed, autocast=autocast)


def train_on_chosen_real(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    prepare: Prepare,
    seed: int,
    *,
    autocast: torch.dtype | None = None,
) -> None:
    """Train a network in place on real images that a rule has chosen, as on random ones."""
    training_seed = mix(seed, Purpose.REAL_BASELINE_TRAINING)
    with seeded_generators(seed):
        train_on_few(
            network, images, labels, prepare=prepare, seed=training_seed, autocast=autocast
        )


def train_on_all(
    network: nn.Module,
    data: RealData,
    prepare: Prepare,
    seed: int,
    *,
    autocast: torch.dtype | None = None,
) -> None:
    """Train a network in place on all real images, for `training_steps` of batches of them.

    Randomness is that of `train_on_random_real`.
    """
    images = data.count()
    size = batch_size(images)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        now = nth_seed(mix(seed, Purpose.FULL_BASELINE_TRAINING), step)
        return prepare(*data.batch(size, now), now)

    with seeded_generators(seed):
        train_on_real(network, batch, training_steps(images), autocast=autocast)
