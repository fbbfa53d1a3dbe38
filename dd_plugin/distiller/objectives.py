"""What the images of a head can be learned by instead of the loss of the trained head.

Beside `dd_plugin.networks.heads`, whose heads are objectives themselves. Used by `head_course`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dd_plugin.networks.heads import HeadGradient, HeadTraining, Objective


@dataclass(frozen=True)
class GradientMatching(Objective):
    """One minus the cosine between a random head's gradients on synthetic and on real features.

    Linear Gradient Matching (arXiv 2511.16674). A head with independent normal weights is drawn in
    each step; its gradient for the weights is ``(softmax(f Wᵀ) - y)ᵀ f / n``. What a ridge head
    learns beside its weights is not in it, and has a gradient of zero.
    """

    def _differentiate(
        self, training: HeadTraining, real: tuple[Tensor, Tensor], seed: int
    ) -> HeadGradient:
        features, num_classes = training.features, training.num_classes
        generator = torch.Generator().manual_seed(seed)
        shape = (num_classes, features.shape[1])
        weight = torch.randn(shape, generator=generator).to(features) / math.sqrt(shape[1])

        def slope(f: Tensor, y: Tensor) -> Tensor:
            probabilities = F.linear(f, weight).softmax(1)
            y = y if y.is_floating_point() else F.one_hot(y, num_classes).to(f.dtype)
            return ((probabilities - y).T @ f / len(f)).flatten()

        with torch.no_grad():
            wanted = slope(*real)
        value = 1 - F.cosine_similarity(slope(features, training.targets), wanted, dim=0)
        soft = training.soft_targets
        of_features, *of_targets = torch.autograd.grad(value, [features, *soft])
        return HeadGradient(
            loss=value.detach(),
            features=of_features,
            targets=of_targets[0] if soft else None,
            step_sizes=torch.zeros_like(training.step_sizes),
            constants={name: torch.zeros_like(t) for name, t in training.constants.items()},
            finite=bool(value.isfinite() & of_features.isfinite().all()),
        )
