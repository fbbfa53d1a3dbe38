"""The way of real images through augmentation and a frozen backbone, shared out over processes.

Used by `features` alone, which decides what is computed and where it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dd_plugin.data import RealData
from dd_plugin.data.augmentation import Augmentation
from dd_plugin.seeds import Purpose, mix

# Consecutive rows that are augmented by one seed, whatever the batch size.
_BLOCK = 64

Gather = Callable[[Tensor], Tensor]


class FrozenBackbone(Protocol):
    """The part of a `Backbone` that features are computed with."""

    num_features: int
    size: tuple[int, int]
    fingerprint: str

    def __call__(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W) in [0, 1] to features (N, num_features)."""
        ...


@dataclass(frozen=True)
class FeatureWork:
    """The images' way through augmentation and backbone."""

    backbone: FrozenBackbone
    data: RealData
    augmentation: Augmentation
    seed: int
    device: torch.device
    precision: str
    batch_size: int

    def rows_of(
        self, copy: int, count: int, share: tuple[int, int], gather: Gather | None
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield the first row and the features (n, d) of consecutive rows, of every process."""
        process, processes = share
        length = -(-count // processes)  # of a part; the last ones may be shorter
        firsts = [min(count, other * length) for other in range(processes)]
        first, stop = firsts[process], min(count, firsts[process] + length)
        batches = self.data.batches(self.batch_size, first=first, stop=stop)
        for start in range(0, length, self.batch_size):
            images, _ = next(batches, (None, None))
            values = torch.zeros(0, self.backbone.num_features, device=self.device)
            if images is not None:
                values = self._features(images, copy, first + start)
            if gather is None:
                yield first + start, values.cpu()
                continue
            # Parts of equal shapes, as collective operations want them.
            padded = values.new_zeros(self.batch_size, values.shape[1])
            padded[: len(values)] = values
            gathered = gather(padded).view(processes, *padded.shape).cpu()
            for other, part in zip(firsts, gathered, strict=True):
                rows = min(self.batch_size, length - start, count - other - start)
                if rows > 0:
                    yield other + start, part[:rows]

    def _features(self, images: Tensor, copy: int, first: int) -> Tensor:
        images = images.to(self.device)
        if copy:
            images = self._augmented(images, copy, first)
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        autocast = self.precision == "bfloat16"
        half = torch.autocast(self.device.type, torch.bfloat16) if autocast else nullcontext()
        with torch.no_grad(), half:
            values = self.backbone(images)
        expected = (len(images), self.backbone.num_features)
        if tuple(values.shape) != expected:
            raise ValueError(
                f"the backbone must give features of shape {expected} for {len(images)} images, "
                f"got {tuple(values.shape)}; check its `num_features` and its feature layer"
            )
        values = values.detach().float()
        if not (finite := values.isfinite().all(1)).all():
            row = first + int((~finite).nonzero()[0])
            raise ValueError(
                f"the backbone's features of image {row} are not finite; check its weights, or "
                'pass `precision="float32"`'
            )
        return values

    def _augmented(self, images: Tensor, copy: int, first: int) -> Tensor:
        """Return the augmented images of consecutive rows, block by block."""
        parts, row, stop = [], first, first + len(images)
        while row < stop:
            block, place = divmod(row, _BLOCK)
            following = min(stop, (block + 1) * _BLOCK)
            of_block = images[row - first : following - first]
            groups = torch.arange(place, place + len(of_block))
            parts.append(
                self.augmentation(
                    of_block,
                    mix(self.seed, Purpose.FEATURE_AUGMENTATION, copy, block),
                    groups=groups,
                )
            )
            row = following
        return torch.cat(parts)
