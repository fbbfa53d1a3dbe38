"""The rule for a part of the training images that is held out, where no split is for evaluation.

Used by `dataset`. The part is a function of the labels, the fraction and the seed. So whoever has
the data set and these numbers, as the record of a distilled set does, finds the same images again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from dd_plugin.seeds import Purpose, mix

DEFAULT_FRACTION: Final = 0.2


@dataclass(frozen=True)
class HeldOut:
    """How many images of each class are held out, and which.

    Attributes:
        fraction: of the images of each class; at least one is held out.
        seed: of the run.
        keep: images that each class keeps, if it has as many.
    """

    fraction: float
    seed: int
    keep: int = 1

    def count(self, images: int) -> int:
        """Return how many of the images of a class are held out."""
        return max(0, min(max(1, round(self.fraction * images)), images - max(1, self.keep)))

    def mask(self, labels: Tensor, counts: Sequence[int]) -> Tensor:
        """Return a bool for each image: is it held out?

        Args:
            labels: of all images.
            counts: images of each class.
        """
        is_held = torch.zeros(len(labels), dtype=torch.bool)
        generator = torch.Generator().manual_seed(mix(self.seed, Purpose.HELD_OUT))
        for label, images in enumerate(counts):
            rows = (labels == label).nonzero()[:, 0]
            order = torch.randperm(images, generator=generator)
            is_held[rows[order[: self.count(images)]]] = True
        return is_held
