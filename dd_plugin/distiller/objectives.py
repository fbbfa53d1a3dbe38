"""What the images of a head can be learned by instead of the loss of the trained head.

Beside `dd_plugin.networks.heads`, whose heads are objectives themselves. Used by `head_course`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dd_plugin.networks.heads import HeadGradient, Objective


@dataclass(frozen=True)
class GradientMatching(Objective):
    """One minus the cosine between a random head's gradients on synthetic and on real features.

    Linear Gradient Matching (arXiv 2511.16674). A head with independent normal weights is drawn in
    each step; its gradient for the weights is ``(softmax(f Wᵀ) - y)ᵀ f / n``. What a ridge head
    learns beside its weights is not in it, and has a gradient of zero.
    """

    def gradient(
        self,
        features: Tensor,
        targets: Tensor,
        real: tuple[Tensor, Tensor],
        *,
        num_classes: int,
        step_sizes: Tensor,
        constants: Mapping[str, Tensor],
        seed: int,
    ) -> HeadGradient:
        """See `Objective`."""
        generator = torch.Generator().manual_seed(seed)
        shape = (num_classes, features.shape[1])
        weight = torch.randn(shape, generator=generator).to(features) / math.sqrt(shape[1])

        def slope(f: Tensor, y: Tensor) -> Tensor:
            probabilities = F.linear(f, weight).softmax(1)
            y = y if y.is_floating_point() else F.one_hot(y, num_classes).to(f.dtype)
            return ((probabilities - y).T @ f / len(f)).flatten()

        with torch.enable_grad():
            f = features.detach().requires_grad_()
            soft = targets.is_floating_point()
            y = targets.detach().requires_grad_() if soft else targets
            with torch.no_grad():
                wanted = slope(*real)
            value = 1 - F.cosine_similarity(slope(f, y), wanted, dim=0)
            f_bar, *rest = torch.autograd.grad(value, [f, *([y] if soft else [])])
        finite = bool(value.isfinite() & f_bar.isfinite().all())
        zeros = {name: torch.zeros_like(t) for name, t in constants.items()}
        return HeadGradient(
            value.detach(),
            f_bar,
            rest[0] if soft else None,
            torch.zeros_like(step_sizes),
            zeros,
            finite,
        )
