"""Real images as the networks of a distilled set see them: the one preparation of all comparisons.

Below `baselines`, which train on prepared images, and `comparison`, which tests on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dd_plugin.data import Augmentation, RealData, Transform
from dd_plugin.data.synthetic import SyntheticSet

# From images, labels and a seed to augmented network input and labels.
Prepare = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


class InputBatches:
    """Real images as network input, in batches that are prepared on each pass.

    Args:
        data: the images.
        transform: from pixels to network input.
        dtype: of the network.
        size: images per batch; the last one may be smaller.

    Attributes:
        data: the images.
    """

    def __init__(self, data: RealData, transform: Transform, dtype: torch.dtype, size: int) -> None:
        self.data, self._transform, self._dtype, self._size = data, transform, dtype, size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.data.batches(self._size):
            yield self._transform(images.to(self._dtype)), labels


def training_input(
    synthetic: SyntheticSet, images: Tensor, seed: int, *, groups: Tensor | None = None
) -> Tensor:
    """Return images as networks are trained on them: augmented and transformed.

    Args:
        synthetic: the set whose networks they are.
        images: ``(N, C, H, W)`` in [0, 1].
        seed: of the augmentation.
        groups: of images that are augmented alike; see `Augmentation`.
    """
    images = images.to(synthetic.log_step_sizes.dtype)
    return synthetic.transform(synthetic.augmentation(images, seed, groups=groups))


def preparation(synthetic: SyntheticSet) -> Prepare:
    """Return the preparation of images that networks are trained on beside a set."""
    dtype = synthetic.log_step_sizes.dtype
    return prepared_by(synthetic.transform, synthetic.augmentation, dtype)


def prepared_by(transform: Transform, augmentation: Augmentation, dtype: torch.dtype) -> Prepare:
    """Return the preparation of images by an augmentation and a transform."""

    def prepare(images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        return transform(augmentation(images.to(dtype), seed)), labels

    return prepare


def input_batches(synthetic: SyntheticSet, data: RealData, size: int) -> InputBatches:
    """Return real images as the networks of a set are tested on them, in batches."""
    return InputBatches(data, synthetic.transform, synthetic.log_step_sizes.dtype, size)
