"""The difficulty of real images: the error that young networks make on each of them (EL2N).

After `ordinary` and `preparation`, below `real_coresets` and `heads`, which choose the easiest and
the hardest images of each class by it.

The score is the length of the error of the probabilities, |softmax(logits) - one_hot(label)|,
averaged over networks that were trained for a short while (Paul, Ganguli and Dziugaite, arXiv
2107.07075, definition 2.2). It lies between 0 and the root of 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dd_plugin.bilevel import logits_of
from dd_plugin.data import RealData
from dd_plugin.evaluation.memory_layout import fastest_layout
from dd_plugin.evaluation.ordinary import batch_size, train_on_real, training_steps
from dd_plugin.evaluation.preparation import InputBatches, Prepare
from dd_plugin.seeds import Purpose, mix, nth_seed, seeded_generators

# The networks that a score is the mean over.
YOUNG_NETWORKS = 4
# The part of an ordinary training after which they are asked.
_PART = 4
_LARGEST = math.sqrt(2)


def early_steps(images: int | None) -> int:
    """Return the steps of a network that is asked how hard images are: a quarter of a training."""
    return max(1, training_steps(images) // _PART)


def el2n(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the length of the error of the probabilities of each image, ``(N,)`` in float64.

    Logits that are not numbers are as wrong as can be: the root of 2.

    Args:
        logits: ``(N, classes)``.
        labels: class indices ``(N,)``.
    """
    probabilities = logits.double().softmax(1)
    one_hot = F.one_hot(labels, logits.shape[1]).to(probabilities)
    return (probabilities - one_hot).norm(dim=1).nan_to_num(nan=_LARGEST)


def tells_nothing(scores: Tensor) -> bool:
    """Return whether all images are as hard as can be, as for networks that have diverged."""
    return bool((scores > _LARGEST - 1e-9).all())


def of_images(
    new_network: Callable[[int], nn.Module],
    data: RealData,
    inputs: InputBatches,
    prepare: Prepare,
    *,
    autocast: torch.dtype | None = None,
) -> Tensor:
    """Return the difficulty of real images for networks of one architecture, ``(N,)`` on the CPU.

    Args:
        new_network: the network of a seed, not trained yet.
        data: the images.
        inputs: the same as network input, not augmented.
        prepare: makes network input of a batch to train on.
        autocast: see `train_on_real`.
    """
    count = data.count()
    size = batch_size(count)

    def train(network: nn.Module, seed: int) -> None:
        def batch(step: int) -> tuple[Tensor, Tensor]:
            now = nth_seed(seed, step)
            return prepare(*data.batch(size, now), now)

        train_on_real(network, batch, early_steps(count), autocast=autocast)

    return _mean_score(new_network, train, inputs)


def of_features(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the difficulty of real images for heads on their features, ``(N,)`` on the CPU.

    The heads are linear, on features that are standardized.

    Args:
        features: ``(N, d)``.
        labels: class indices ``(N,)``.
        num_classes: how many there are.
    """
    centered = features - features.mean(0)
    deviation = centered.square().mean(0).sqrt()
    values = centered / torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    count = len(labels)

    def new_head(seed: int) -> nn.Module:
        with seeded_generators(seed):
            return nn.Linear(values.shape[1], num_classes).to(values)

    def train(head: nn.Module, seed: int) -> None:
        def batch(step: int) -> tuple[Tensor, Tensor]:
            generator = torch.Generator().manual_seed(nth_seed(seed, step))
            rows = torch.randperm(count, generator=generator)[: batch_size(count)]
            rows = rows.to(labels.device)
            return values[rows], labels[rows]

        train_on_real(head, batch, early_steps(count))

    return _mean_score(new_head, train, [(values, labels)])


def _mean_score(
    new_network: Callable[[int], nn.Module],
    train: Callable[[nn.Module, int], None],
    batches: Iterable[tuple[Tensor, Tensor]],
) -> Tensor:
    """Return the mean score of each image over networks.

    Their seeds are the same in every run, so that the choice follows from images and network alone.
    """
    total: Tensor | None = None
    for index in range(YOUNG_NETWORKS):
        seed = mix(0, Purpose.DIFFICULTY_NETWORK, index)
        network = new_network(seed)
        with seeded_generators(seed):
            train(network, mix(seed, Purpose.DIFFICULTY_NETWORK))
        scores = _scores(network, batches)
        total = scores if total is None else total + scores
    assert total is not None
    return total / YOUNG_NETWORKS


@torch.no_grad()
def _scores(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the scores of images for one network in eval mode."""
    network.eval()
    with fastest_layout(network) as arranged:
        return torch.cat(
            [
                el2n(logits_of(network(arranged(images))), labels.to(images.device)).cpu()
                for images, labels in batches
            ]
        )
