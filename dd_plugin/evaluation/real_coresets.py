"""Coresets of real images for networks that are trained from scratch.

Between `coresets`, whose rules choose rows by features or by difficulty, and `comparison`, which
trains on them. A network that starts from random weights has no features yet, so the distances are
between images. How hard an image is, the networks say themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from dd_plugin.data import RealData
from dd_plugin.evaluation.coresets import (
    easiest,
    hardest,
    herding,
    k_center,
    nearest_to_centroid,
)
from dd_plugin.evaluation.training_images import TrainingImages, pixel_levels

# Real images that are chosen by their features.
RULES: Mapping[TrainingImages, Callable[..., Tensor]] = {
    TrainingImages.CENTROID: nearest_to_centroid,
    TrainingImages.HERDING: herding,
    TrainingImages.K_CENTER: k_center,
}
# Real images that are chosen by how hard they are to learn.
DIFFICULTY_RULES: Mapping[TrainingImages, Callable[..., Tensor]] = {
    TrainingImages.EASIEST: easiest,
    TrainingImages.HARDEST: hardest,
}

# Larger images are compared at this height and width, so that all of them fit into memory.
_LARGEST = 32
_BATCH = 500


class RealCoresets:
    """The images that the rules choose of real ones; each choice is made once.

    Args:
        data: the real images.
        difficulty: of each of them, for `DIFFICULTY_RULES`; called once at most.
    """

    def __init__(self, data: RealData, difficulty: Callable[[], Tensor] | None = None) -> None:
        self._data, self._difficulty_of = data, difficulty
        self._features: Tensor | None = None
        self._difficulty: Tensor | None = None
        self._chosen: dict[tuple[TrainingImages, int], tuple[Tensor, Tensor]] = {}

    def images(self, kind: TrainingImages, per_class: int) -> tuple[Tensor, Tensor]:
        """Return images in [0, 1], sorted by class, and their labels.

        Args:
            kind: one of `RULES` or `DIFFICULTY_RULES`.
            per_class: images of each class.

        Raises:
            ValueError: a class has fewer images.
        """
        wanted = (kind, per_class)
        if wanted not in self._chosen:
            self._chosen[wanted] = self._different(kind, per_class)
        return self._chosen[wanted]

    def _different(self, kind: TrainingImages, per_class: int) -> tuple[Tensor, Tensor]:
        """Choose images of which no two are the same, as long as there are others.

        The same image twice is as easy twice, so that a rule takes it twice, where others look at
        what they have chosen.
        """
        labels = self._data.labels()
        rule, values = self._rule_of(kind)
        again = torch.zeros(len(labels), dtype=torch.bool)
        while True:
            rows = rule(values, labels, per_class, num_classes=self._data.num_classes)
            order = rows.argsort()
            images = rows_of(self._data, rows[order], _BATCH)[order.argsort()]
            repeated = rows[_repeated(images)] if kind in DIFFICULTY_RULES else rows[:0]
            if bool(again[repeated].all()):  # also where there is none
                return images, labels[rows].to(images.device)
            again[repeated] = True
            # Behind all others.
            last = values.min() - 1 if kind is TrainingImages.HARDEST else values.max() + 1
            values = values.masked_fill(again, float(last))

    def _rule_of(self, kind: TrainingImages) -> tuple[Callable[..., Tensor], Tensor]:
        """Return the rule of a kind, and what it chooses by: features, or the difficulty."""
        if kind in DIFFICULTY_RULES:
            if self._difficulty is None:
                assert self._difficulty_of is not None
                self._difficulty = self._difficulty_of()
            return DIFFICULTY_RULES[kind], self._difficulty
        if self._features is None:
            self._features = pixel_features(self._data)
        return RULES[kind], self._features


def _repeated(images: Tensor) -> Tensor:
    """Return which images are the same as an earlier one, ``(N,)`` on the CPU."""
    _, same = images.flatten(1).unique(dim=0, return_inverse=True)
    same = same.cpu()
    first = torch.full((len(same),), len(same)).scatter_reduce(
        0, same, torch.arange(len(same)), reduce="amin"
    )
    return first[same] != torch.arange(len(same))


def pixel_features(data: RealData) -> Tensor:
    """Return the pixels of all images, uint8 of shape (N, d) on the CPU.

    Images of more than 32 rows or columns are averaged down to 32.
    """
    height, width = (min(side, _LARGEST) for side in data.shape[1:])
    parts = [
        pixel_levels(adaptive_avg_pool2d(pixels, (height, width))).flatten(1).to(torch.uint8).cpu()
        for pixels, _ in data.batches(_BATCH)
    ]
    return torch.cat(parts)


def rows_of(images: RealData, rows: Tensor, batch_size: int) -> Tensor:
    """Return the images in [0, 1] of rows in rising order, read in one pass."""
    parts, first = [], 0
    for pixels, _ in images.batches(batch_size):
        last = first + len(pixels)
        here = rows[(rows >= first) & (rows < last)]
        parts.append(pixels[(here - first).to(pixels.device)])
        first = last
    return torch.cat(parts)
