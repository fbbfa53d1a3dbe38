"""The two ways in which a head is trained: ridge regression in closed form, and step by step.

`head_of` chooses the one that a recipe names. Gradients pass through either: `RidgeHead` is left to
autograd, `UnrolledHead` to the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dd_plugin.bilevel import BilevelProblem, Optimizer, hypergradient, sgd, unroll
from dd_plugin.bilevel.optimizers import OPTIMIZERS
from dd_plugin.bilevel.problem import Loss, cross_entropy
from dd_plugin.data.recipe import Recipe
from dd_plugin.networks.heads import Head, HeadGradient, HeadTraining, LinearHead

__all__ = ["RidgeHead", "UnrolledHead", "head_of"]

# The mean square norm that features are scaled to for training step by step, at which the usual
# step sizes fit: the curvature of cross entropy is at most half of it.
_SQUARE_NORM = 100.0


@dataclass
class RidgeHead(Head):
    """Ridge regression onto the labels, in closed form.

    With centered features F (n, d) and centered targets Y (n, classes), the weights are
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
        """Return the logarithms of strength and temperature."""
        return {
            "ridge_log_strength": torch.tensor(self.strength).log(),
            "ridge_log_temperature": torch.tensor(self.temperature).log(),
        }

    def _train(self, training: HeadTraining) -> LinearHead:
        features = training.features
        # A system of a few hundred equations costs nothing, and its condition squares that of F.
        f = features.double()
        y = _one_hot(training.targets, training.num_classes).double()
        center, mean = f.mean(0), y.mean(0)
        f, y = f - center, y - mean
        strength = training.constants["ridge_log_strength"].double().exp()
        tau = training.constants["ridge_log_temperature"].double().exp()
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

    def _differentiate(
        self, training: HeadTraining, real: tuple[Tensor, Tensor], seed: int
    ) -> HeadGradient:
        loss = self.outer_loss(self._train(training).logits(real[0]), real[1])
        soft, learned = training.soft_targets, training.constants
        gradients = torch.autograd.grad(loss, [training.features, *soft, *learned.values()])
        finite = loss.isfinite() & torch.stack([g.isfinite().all() for g in gradients]).all()
        of_constants = gradients[1 + len(soft) :]
        return HeadGradient(
            loss=loss.detach(),
            features=gradients[0],
            targets=gradients[1] if soft else None,
            step_sizes=None,
            constants=dict(zip(learned, of_constants, strict=True)),
            finite=bool(finite),
        )


@dataclass
class UnrolledHead(Head):
    """A linear layer trained by gradient steps from zero, differentiated by the engine.

    Features are centered, and scaled to a mean square norm of 100, by the training features
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
        """Return nothing."""
        return {}

    def _train(self, training: HeadTraining) -> LinearHead:
        """Return the trained head, without a graph."""
        center, scale = _center_and_scale(training.features)
        trained = unroll(
            self._problem(training),
            [((training.features - center) / scale, training.targets)] * self.steps,
            step_size=self._step_sizes(training),
        ).final.parameters
        weight = trained["weight"] / scale
        return LinearHead(weight, trained["bias"] - weight @ center)

    def _differentiate(
        self, training: HeadTraining, real: tuple[Tensor, Tensor], seed: int
    ) -> HeadGradient:
        center, scale = _center_and_scale(training.features)
        soft = training.soft_targets
        result = hypergradient(
            self._problem(training),
            [((training.features - center) / scale, training.targets)] * self.steps,
            ((real[0] - center) / scale, real[1]),
            step_size=self._step_sizes(training),
            seed=seed,
            leaves=[training.features, training.step_sizes, *soft],
            allow_unused=True,
        )
        of_features, of_step_sizes, *of_targets = result.leaves
        return HeadGradient(
            loss=result.outer_loss,
            features=of_features,
            targets=of_targets[0] if soft else None,
            step_sizes=of_step_sizes,
            constants={},
            finite=result.finite,
        )

    def _step_sizes(self, training: HeadTraining) -> Tensor:
        sizes = training.step_sizes
        return sizes.expand(self.steps) if sizes.dim() == 0 and self.steps > 1 else sizes

    def _problem(self, training: HeadTraining) -> BilevelProblem:
        """Return the linear layer, which starts at zero: every one of a kind is the same."""
        features, num_classes = training.features, training.num_classes
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
    """Return the head of a recipe for heads.

    Args:
        recipe: With ``trainable="head"``.
        inner_loss: Of training step by step.
        outer_loss: On real features.
        verify: See `dd_plugin.bilevel.BilevelProblem`.
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
