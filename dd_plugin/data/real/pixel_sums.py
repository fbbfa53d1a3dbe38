"""Means and deviations of 8-bit pixels from sums of whole numbers: exact, in any order.

Used by `dataset`, on what `rows` and `streams` give of their images.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F


def mean_std(batches: Iterable[Tensor]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel, of pixels in [0, 1].

    Args:
        batches: uint8 ``(N, C, H, W)``, one at least.
    """
    count = 0
    total = squares = torch.zeros((), dtype=torch.int64)
    for pixels in batches:
        values = pixels.to(torch.int64)
        count += values[:, 0].numel()
        total = total + values.sum(dim=(0, 2, 3)).cpu()
        squares = squares + values.square().sum(dim=(0, 2, 3)).cpu()
    means, stds = [], []
    for of_channel, square in zip(total.tolist(), squares.tolist(), strict=True):
        # count² times the variance, in whole numbers: nothing cancels.
        spread = count * square - of_channel**2
        means.append(of_channel / count / 255)
        stds.append(spread**0.5 / count / 255)
    return means, stds


def class_means(
    batches: Iterable[tuple[Tensor, Tensor]],
    shape: tuple[int, int, int],
    num_classes: int,
    per_class: int,
) -> tuple[Tensor, Tensor]:
    """Return mean images of the parts of each class, and how many images each class has.

    Args:
        batches: uint8 pixels ``(N, C, H, W)`` and labels ``(N,)``.
        shape: (C, H, W).
        num_classes: Number of classes.
        per_class: Number of parts of a class, to which its images go in turn.

    Returns:
        float32 ``(num_classes * per_class, C, H, W)`` in [0, 1], sorted by class, and int64
        ``(num_classes,)``.
    """
    parts = num_classes * per_class
    sums = torch.zeros(parts, *shape, dtype=torch.int64)
    seen = torch.zeros(num_classes, dtype=torch.int64)
    counts = torch.zeros(parts, dtype=torch.int64)
    for pixels, labels in batches:
        labels = labels.cpu()
        earlier = F.one_hot(labels, num_classes).cumsum(0).gather(1, labels[:, None]) - 1
        part = labels * per_class + (seen[labels] + earlier[:, 0]) % per_class
        sums.index_add_(0, part, pixels.cpu().to(torch.int64))
        counts += torch.bincount(part, minlength=parts)
        seen += torch.bincount(labels, minlength=num_classes)
    means = sums.double() / counts.view(-1, 1, 1, 1) / 255
    return means.float(), seen
