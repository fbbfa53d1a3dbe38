"""Linear heads on features: what one is, what it is trained with, and the gradient of its loss.

Heads are trained on the features of a `frozen.Backbone`, by `head_solvers`. The trainer sends the
gradient of a head's loss back into the features, and from there into the images.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class LinearHead(NamedTuple):
    """``logits = features @ weight.T + bias``: ``weight`` (classes, d), ``bias`` (classes,)."""

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Return logits ``(N, classes)`` of features ``(N, d)``."""
        return F.linear(features, self.weight, self.bias)


class HeadGradient(NamedTuple):
    """The loss of a trained head, and its gradients.

    Attributes:
        loss: of the head on real features, 0-d.
        features: like the features that it was trained on.
        targets: like their labels; None where these are class indices.
        step_sizes: like the step sizes; None for a head without.
        constants: for what the head learns beside its weights, by name.
        finite: whether loss and gradients are finite.
    """

    loss: Tensor
    features: Tensor
    targets: Tensor | None
    step_sizes: Tensor | None
    constants: dict[str, Tensor]
    finite: bool


@dataclass(frozen=True, eq=False)
class HeadTraining:
    """The inputs of a head's training, through which gradients are taken.

    Attributes:
        features: ``(n, d)``.
        targets: Class indices ``(n,)``, or probabilities or weights ``(n, classes)``.
        num_classes: Logits of the head.
        step_sizes: 0-d or ``(steps,)``; without effect on a closed form.
        constants: As `Head.initial_constants` names them.
    """

    features: Tensor
    targets: Tensor
    num_classes: int
    step_sizes: Tensor
    constants: Mapping[str, Tensor]

    @property
    def soft_targets(self) -> list[Tensor]:
        """The targets, if a gradient can be taken for them; class indices have none."""
        return [self.targets] if self.targets.is_floating_point() else []

    def leaves(self) -> HeadTraining:
        """Return the same values as leaves of a new graph."""
        soft = self.targets.is_floating_point()
        return replace(
            self,
            features=self.features.detach().requires_grad_(),
            targets=self.targets.detach().requires_grad_() if soft else self.targets,
            step_sizes=self.step_sizes.detach().requires_grad_(),
            constants={name: t.detach().requires_grad_() for name, t in self.constants.items()},
        )


class Objective:
    """How good synthetic images are for heads, as a function of features with a gradient.

    A subclass implements `gradient`, or `_differentiate`, for which `gradient` prepares the inputs.
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
        """Return the value and its gradients. No input is changed and none needs a graph.

        Args:
            features: Of the synthetic images, ``(n, d)``.
            targets: As for `Head.fit`.
            real: Features ``(N, d)`` and labels of real images.
            num_classes: As for `Head.fit`.
            step_sizes: As for `Head.fit`.
            constants: As for `Head.fit`.
            seed: Of random numbers.
        """
        training = HeadTraining(
            features, targets, num_classes, step_sizes=step_sizes, constants=constants
        )
        with torch.enable_grad():
            return self._differentiate(training.leaves(), real, seed)

    @abstractmethod
    def _differentiate(
        self, training: HeadTraining, real: tuple[Tensor, Tensor], seed: int
    ) -> HeadGradient:
        """Return the value and its gradients for ``training``, whose tensors are leaves."""


class Head(Objective):
    """How a head is trained on a few features, and judged on many.

    As an objective it is the loss on real features of the head that `fit` gives.
    """

    @abstractmethod
    def initial_constants(self) -> dict[str, Tensor]:
        """Return what is learned about the training, by name: 0-d, of any sign."""

    def fit(
        self,
        features: Tensor,
        targets: Tensor,
        *,
        num_classes: int,
        step_sizes: Tensor,
        constants: Mapping[str, Tensor],
    ) -> LinearHead:
        """Return the head trained on features.

        Args:
            features: ``(n, d)``.
            targets: Class indices ``(n,)``, or probabilities or weights ``(n, classes)``.
            num_classes: Logits of the head.
            step_sizes: 0-d or ``(steps,)``; without effect on a closed form.
            constants: As `initial_constants` names them.
        """
        training = HeadTraining(
            features, targets, num_classes, step_sizes=step_sizes, constants=constants
        )
        return self._train(training)

    @abstractmethod
    def _train(self, training: HeadTraining) -> LinearHead:
        """Return the trained head."""
