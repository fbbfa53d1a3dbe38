"""A run for the heads of frozen backbones: its outer step and its tests.

It takes the place that `architectures` has in other runs: `distiller` asks it for the gradient of a
step and for accuracies. Images pass through a backbone once, forward and backward, however long the
head is trained: everything of second order happens among features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dd_plugin.bilevel.host_reads import all_finite
from dd_plugin.data import SyntheticSet
from dd_plugin.distiller.real_features import RealFeatures
from dd_plugin.distiller.turns import in_turn
from dd_plugin.evaluation import HeadTest
from dd_plugin.networks import Backbone, Features, Head, Objective
from dd_plugin.seeds import Purpose, mix


@dataclass(frozen=True)
class HeadStep:
    """The gradient of an outer step, with the names that `Hypergradient` has for it."""

    outer_loss: Tensor
    leaves: tuple[Tensor, ...]
    finite: bool


class HeadCourse:
    """Backbones, the features of the real images, and how a head is trained on them.

    Args:
        backbones: frozen networks; each outer step takes one of them.
        real: the real images and their features.
        head: how a head is trained.
        objective: what the images are learned by.
        seed: of the run.
        real_batch_size: real features per step.
        batch_size: images per forward pass of a backbone.
    """

    mode = "head"
    has_batch_norm = False
    statistics = None

    def __init__(
        self,
        backbones: Sequence[Backbone],
        real: RealFeatures,
        head: Head,
        objective: Objective,
        *,
        seed: int,
        real_batch_size: int,
        batch_size: int,
    ) -> None:
        self.backbones, self.head, self.objective = list(backbones), head, objective
        self._real, self.train = real, list[Features]()
        self._tests: list[HeadTest] = []
        self.seed, self.real_batch_size, self.batch_size = seed, real_batch_size, batch_size

    def prepare(self, *, to_test: bool = False) -> None:
        """Compute the features of the real images, unless that is done.

        Every process of a run calls it at the same place: they share out the images.

        Args:
            to_test: those of the images that heads are tested on, too.
        """
        if not self.train:
            self.train = [self._real.of_train(backbone) for backbone in self.backbones]
        if to_test and not self._tests and self._real.evaluation is not None:
            self._tests = [
                HeadTest(
                    backbone=backbone,
                    head=self.head,
                    train=train,
                    test=self._real.of_evaluation(backbone),
                    batch_size=self.batch_size,
                    images=self._real.train,
                )
                for backbone, train in zip(self.backbones, self.train, strict=True)
            ]

    @property
    def tests(self) -> list[HeadTest]:
        """The tests of heads on each backbone, after `prepare`."""
        return self._tests

    def constants(self) -> dict[str, Tensor]:
        """Return what is learned about the training of a head, with its first values."""
        return self.head.initial_constants()

    def choice(self, turn: int) -> int:
        """Return the place of the backbone that an inner run takes; see `in_turn`."""
        return in_turn(len(self.backbones), self.seed, turn)

    def gradient(
        self,
        synthetic: SyntheticSet,
        step: int,
        index: int,
        leaves: Sequence[Tensor],
        *,
        turn: int,
    ) -> HeadStep:
        """Return the objective of one backbone in an outer step, and its gradient.

        Args:
            synthetic: the synthetic set.
            step: the outer step.
            index: the place of this gradient among those of the step.
            leaves: what the gradient is for.
            turn: the number of the inner run, which decides the backbone.
        """
        which = self.choice(turn)
        backbone, real = self.backbones[which], self.train[which]
        with torch.enable_grad():
            images, targets = synthetic.batch(0, mix(self.seed, Purpose.HEAD_INNER_RUN, step))
            constants, sizes = synthetic.constants(), synthetic.step_sizes()
        real_features, real_labels = real.batch(
            self.real_batch_size, mix(self.seed, Purpose.HEAD_REAL_BATCH, step, index)
        )
        features, pull_back = features_with_pullback(
            backbone, images.detach(), self.batch_size, synthetic.recipe.autocast
        )
        of_features = self.objective.gradient(
            features,
            targets.detach(),
            (real_features.to(features), real_labels.to(targets.device)),
            num_classes=synthetic.recipe.num_classes,
            step_sizes=sizes.detach(),
            constants={name: t.detach() for name, t in constants.items()},
            seed=mix(self.seed, Purpose.HEAD_OBJECTIVE, step, index),
        )
        pairs: list[tuple[Tensor, Tensor | None]] = [
            (images, pull_back(of_features.features)),
            (targets, of_features.targets),
            (sizes, of_features.step_sizes),
            *((constants[name], bar) for name, bar in of_features.constants.items()),
        ]
        wanted = [(t, bar) for t, bar in pairs if bar is not None and t.requires_grad]
        slopes = torch.autograd.grad(
            [t for t, _ in wanted], leaves, [bar.to(t) for t, bar in wanted], allow_unused=True
        )
        gradients = tuple(
            torch.zeros_like(leaf) if slope is None else slope
            for leaf, slope in zip(leaves, slopes, strict=True)
        )
        finite = of_features.finite and bool(all_finite(gradients))
        return HeadStep(of_features.loss, gradients, finite)

    # What `Networks` has, too.

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: every step is a function of the seed and its number."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing; there is no state."""

    def summary(self) -> dict[str, Any]:
        """Return what a record says of the networks."""
        first = self.backbones[0]
        return {
            "class": type(_inside(first)).__name__,
            "parameters": sum(p.numel() for p in first.parameters()),
            "backbones": [b.name for b in self.backbones],
        }


def _inside(backbone: Backbone) -> nn.Module:
    """The network that a backbone is made of."""
    return backbone.network.model


def features_with_pullback(
    backbone: Backbone, images: Tensor, batch_size: int, autocast: torch.dtype | None
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return the features of images, and the map from their gradient to that of the images.

    All images that fit into one batch take one pass forward and one back. More of them go batch by
    batch: forward without a graph first, and with one again on the way back, so that the graph of
    one batch at most is in memory.

    Args:
        backbone: frozen.
        images: ``(N, C, H, W)``.
        batch_size: images per pass.
        autocast: the dtype of `torch.autocast` in the backbone, or None.

    Returns:
        Features ``(N, d)`` without a graph, and a function from ``(N, d)`` to ``(N, C, H, W)``.
    """

    def forward(batch: Tensor) -> Tensor:
        with torch.autocast(
            batch.device.type, autocast or torch.bfloat16, enabled=autocast is not None
        ):
            features = backbone(batch)
        return features.to(batch.dtype)

    def forward_with_graph(batch: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = batch.detach().requires_grad_()
            return leaf, forward(leaf)

    def pull_back(gradient: Tensor) -> Tensor:
        return torch.autograd.grad(features, leaf, gradient.to(features))[0]

    def pull_back_by_batch(gradient: Tensor) -> Tensor:
        gradients = []
        for batch, of_batch in zip(batches, gradient.split(batch_size), strict=True):
            leaf, features = forward_with_graph(batch)
            gradients.append(torch.autograd.grad(features, leaf, of_batch.to(features))[0])
        return torch.cat(gradients)

    batches = images.split(batch_size)
    if len(batches) == 1:
        leaf, features = forward_with_graph(images)
        return features.detach(), pull_back
    with torch.no_grad():
        return torch.cat([forward(batch) for batch in batches]), pull_back_by_batch
