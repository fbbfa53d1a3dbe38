"""Linear heads trained on features, as functions through which the gradient passes back.

Between `backbones`, whose features they are trained on, and the trainer, which sends the gradient
of a head's loss back into the features and from there into the images. Two solvers: `RidgeHead` has
a closed form, `UnrolledHead` is trained by the engine, step by step.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dd_plugin.bilevel import BilevelProblem, Optimizer, hypergradient, sgd, unroll
from dd_plugin.bilevel.optimizers import OPTIMIZERS
from dd_plugin.bilevel.problem import Loss, cross_entropy
from dd_plugin.data.recipe import Recipe

# The mean square norm that features are scaled to for training step by step, at which the usual
# step sizes fit: the curvature of cross entropy is at most half of it.
_SQUARE_NORM = 100.0


class LinearHead(NamedTuple):
    """``logits = features @ weight.T + bias``: ``weight`` (classes, d), ``bias`` (classes,)."""

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """``(N, classes)`` of features ``(N, d)``."""
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


class Objective:
    """How good synthetic images are for heads, as a function of features with a gradient."""

    @abstractmethod
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
        """The value and its gradients. No input is changed and none needs a graph.

        Args:
            features: of the synthetic images, ``(n, d)``.
            targets: see `Head.fit`.
            real: features ``(N, d)`` and labels of real images.
            num_classes: see `Head.fit`.
            step_sizes: see `Head.fit`.
            constants: see `Head.fit`.
            seed: of random numbers.
        """


class Head(Objective):
    """How a head is trained on a few features, and judged on many.

    As an objective it is the loss on real features of the head that `fit` gives.
    """

    @abstractmethod
    def initial_constants(self) -> dict[str, Tensor]:
        """What is learned about the training, by name: 0-d, of any sign."""

    @abstractmethod
    def fit(
        self,
        features: Tensor,
        targets: Tensor,
        *,
        num_classes: int,
        step_sizes: Tensor,
        constants: Mapping[str, Tensor],
    ) -> LinearHead:
        """The head trained on features.

        Args:
            features: ``(n, d)``.
            targets: class indices ``(n,)``, or probabilities or weights ``(n, classes)``.
            num_classes: logits of the head.
            step_sizes: 0-d or ``(steps,)``; without effect on a closed form.
            constants: as `initial_constants` names them.
        """


@dataclass
class RidgeHead(Head):
    """Ridge regression onto the labels, in closed form.

    With centred features F (n, d) and centred targets Y (n, classes), the weights are
    ``τ Yᵀ (K + λ s I)⁻¹ F`` with K = F Fᵀ and s its mean diagonal entry: λ is relative to the size
    of the features, so that one strength serves every backbone. The logarithms of λ and of the
    temperature τ are learned. Exact, with one system of n equations, or of d where n is larger.

    Attributes:
        strength: λ to begin with.
        temperature: τ to begin with.
        outer_loss: ``(logits, labels) -> scalar`` on real features.
    """

    strength: float = 0.1
    temperature: float = 10.0
    outer_loss: Loss = cross_entropy

    def initial_constants(self) -> dict[str, Tensor]:
        """See `Head`."""
        return {
            "ridge_log_strength": torch.tensor(self.strength).log(),
            "ridge_log_temperature": torch.tensor(self.temperature).log(),
        }

    def fit(
        self,
        features: Tensor,
        targets: Tensor,
        *,
        num_classes: int,
        step_sizes: Tensor,
        constants: Mapping[str, Tensor],
    ) -> LinearHead:
        """See `Head`."""
        # A system of a few hundred equations costs nothing, and its condition squares that of F.
        f, y = features.double(), _one_hot(targets, num_classes).double()
        center, mean = f.mean(0), y.mean(0)
        f, y = f - center, y - mean
        strength = constants["ridge_log_strength"].double().exp()
        tau = constants["ridge_log_temperature"].double().exp()
        n, d = f.shape
        # Not 0 where all features are alike.
        load = strength * f.square().sum() / n + 1e-30
        if n <= d:
            system = f @ f.T + load * torch.eye(n, dtype=f.dtype, device=f.device)
            weight = torch.linalg.solve(system, y).T @ f
        else:
            system = f.T @ f + load * torch.eye(d, dtype=f.dtype, device=f.device)
            weight = torch.linalg.solve(system, f.T @ y).T
        weight = tau * weight
        return LinearHead(
            weight.to(features.dtype), (tau * mean - weight @ center).to(features.dtype)
        )

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
        """See `Head`."""
        with torch.enable_grad():
            f = features.detach().requires_grad_()
            soft = targets.is_floating_point()
            y = targets.detach().requires_grad_() if soft else targets
            learned = {name: t.detach().requires_grad_() for name, t in constants.items()}
            head = self.fit(f, y, num_classes=num_classes, step_sizes=step_sizes, constants=learned)
            loss = self.outer_loss(head.logits(real[0]), real[1])
            wanted = [f, *([y] if soft else []), *learned.values()]
            found = list(torch.autograd.grad(loss, wanted))
        finite = bool(loss.isfinite() & torch.stack([g.isfinite().all() for g in found]).all())
        f_bar = found.pop(0)
        y_bar = found.pop(0) if soft else None
        return HeadGradient(
            loss.detach(), f_bar, y_bar, None, dict(zip(learned, found, strict=True)), finite
        )


@dataclass
class UnrolledHead(Head):
    """A linear layer trained by gradient steps from zero, differentiated by the engine.

    Features are centred, and scaled to a mean square norm of 100, by the training features
    themselves; the layer that comes out takes them as they are.

    Attributes:
        steps: of training.
        optimizer: of the engine, such as `dd_plugin.bilevel.adam`.
        inner_loss: ``(logits, labels) -> scalar``.
        outer_loss: the same on real features.
        verify: see `dd_plugin.bilevel.BilevelProblem`.
    """

    steps: int
    optimizer: Optimizer = field(default_factory=sgd)
    inner_loss: Loss = cross_entropy
    outer_loss: Loss = cross_entropy
    verify: bool = True
    _problems: dict[tuple[object, ...], BilevelProblem] = field(
        default_factory=dict, repr=False, compare=False
    )

    def initial_constants(self) -> dict[str, Tensor]:
        """See `Head`: nothing."""
        return {}

    def fit(
        self,
        features: Tensor,
        targets: Tensor,
        *,
        num_classes: int,
        step_sizes: Tensor,
        constants: Mapping[str, Tensor],
    ) -> LinearHead:
        """See `Head`. Without a graph."""
        center, scale = _center_and_scale(features)
        trained = unroll(
            self._problem(features, num_classes),
            [((features - center) / scale, targets)] * self.steps,
            step_size=self._step_sizes(step_sizes),
        ).final.parameters
        weight = trained["weight"] / scale
        return LinearHead(weight, trained["bias"] - weight @ center)

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
        """See `Head`."""
        with torch.enable_grad():
            f = features.detach().requires_grad_()
            soft = targets.is_floating_point()
            y = targets.detach().requires_grad_() if soft else targets
            sizes = step_sizes.detach().requires_grad_()
            center, scale = _center_and_scale(f)
            batch = ((f - center) / scale, y)
            judged = ((real[0] - center) / scale, real[1])
            wanted = [f, sizes, *([y] if soft else [])]
            found = hypergradient(
                self._problem(features, num_classes),
                [batch] * self.steps,
                judged,
                step_size=self._step_sizes(sizes),
                seed=seed,
                leaves=wanted,
                allow_unused=True,
            )
        f_bar, sizes_bar, *rest = found.leaves
        return HeadGradient(
            found.outer_loss, f_bar, rest[0] if soft else None, sizes_bar, {}, found.finite
        )

    def _step_sizes(self, given: Tensor) -> Tensor:
        return given.expand(self.steps) if given.dim() == 0 and self.steps > 1 else given

    def _problem(self, features: Tensor, num_classes: int) -> BilevelProblem:
        """The linear layer, which starts at zero: every one of a kind is the same."""
        key = (features.shape[1], num_classes, features.dtype, features.device)
        if key not in self._problems:
            layer = nn.Linear(
                features.shape[1], num_classes, dtype=features.dtype, device=features.device
            )
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
            self._problems[key] = BilevelProblem(
                layer,
                optimizer=self.optimizer,
                inner_loss=self.inner_loss,
                outer_loss=self.outer_loss,
                compile="trace",
                verify=self.verify,
            )
        return self._problems[key]


def _center_and_scale(features: Tensor) -> tuple[Tensor, Tensor]:
    center = features.mean(0)
    square = (features - center).square().sum(1).mean()
    # One feature row alone has no spread; its scale is that of its norm.
    square = torch.where(square > 0, square, features.square().sum(1).mean())
    return center, (square / _SQUARE_NORM).sqrt()


def _one_hot(targets: Tensor, num_classes: int) -> Tensor:
    return targets if targets.is_floating_point() else F.one_hot(targets, num_classes)


def head_of(
    recipe: Recipe,
    inner_loss: Loss = cross_entropy,
    outer_loss: Loss = cross_entropy,
    *,
    verify: bool = True,
) -> Head:
    """The head of a recipe for heads.

    Args:
        recipe: with ``trainable="head"``.
        inner_loss: of training step by step.
        outer_loss: on real features.
        verify: see `dd_plugin.bilevel.BilevelProblem`.
    """
    if recipe.head == "ridge":
        return RidgeHead(outer_loss=outer_loss)
    return UnrolledHead(
        recipe.steps,
        OPTIMIZERS[recipe.optimizer](**recipe.optimizer_args),
        inner_loss=inner_loss,
        outer_loss=outer_loss,
        verify=verify,
    )
