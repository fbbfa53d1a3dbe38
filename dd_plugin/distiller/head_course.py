"""A run for the head of frozen backbones: what an outer step and an evaluation are then.

Beside `networks`, in whose place it stands: `distiller` asks it for the gradient of a step and for
accuracies. Images pass through a backbone once, forward and backward, however long the head is
trained: everything of second order happens among features.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dd_plugin.data import RealData
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.distiller.turns import in_turn
from dd_plugin.evaluation.heads import HeadTest
from dd_plugin.networks.backbones import Backbone
from dd_plugin.networks.features import Features
from dd_plugin.networks.heads import Head, Objective
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
        backbones: frozen networks, of which outer steps take one each.
        make_train: features of the training images by a backbone, computed or read.
        make_test: the same of the evaluation images; None where there are none.
        head: how a head is trained.
        objective: what the images are learned by.
        seed: of the run.
        real_batch_size: real features per step.
        batch_size: images per forward pass of a backbone.
        autocast: the dtype of `torch.autocast` in a backbone, or None.
        images: the training images, see `HeadTest`.
    """

    mode = "head"
    has_batch_norm = False
    statistics = None

    def __init__(
        self,
        backbones: Sequence[Backbone],
        make_train: Callable[[Backbone], Features],
        make_test: Callable[[Backbone], Features] | None,
        head: Head,
        objective: Objective,
        *,
        seed: int,
        real_batch_size: int,
        batch_size: int,
        autocast: torch.dtype | None = None,
        images: RealData | None = None,
    ) -> None:
        self.backbones, self.head = list(backbones), head
        self._make_train, self._make_test = make_train, make_test
        self.train: list[Features] = []
        self._tests: list[HeadTest] = []
        self.objective, self.seed, self._images = objective, seed, images
        self.real_batch_size, self.batch_size = real_batch_size, batch_size
        self.autocast = autocast

    def prepare(self, *, to_test: bool = False) -> None:
        """Compute the features of all real images, as far as they are not there yet.

        Every process of a run calls it at the same place: they share out the images.
        """
        if not self.train:
            self.train = [self._make_train(backbone) for backbone in self.backbones]
        if to_test and not self._tests and self._make_test is not None:
            self._tests = [
                HeadTest(
                    backbone,
                    self.head,
                    train,
                    self._make_test(backbone),
                    self.batch_size,
                    images=self._images,
                )
                for backbone, train in zip(self.backbones, self.train, strict=True)
            ]

    @property
    def tests(self) -> list[HeadTest]:
        """What the heads on each backbone are tested by, after `prepare`."""
        return self._tests

    def constants(self) -> dict[str, Tensor]:
        """What is learned about the training of a head, as it is at the start."""
        return self.head.initial_constants()

    def choice(self, turn: int) -> int:
        """The place of the backbone that an inner run takes; see `in_turn`."""
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
        """The objective of one backbone in an outer step, and its gradient for the leaves."""
        which = self.choice(turn)
        backbone, real = self.backbones[which], self.train[which]
        with torch.enable_grad():
            images, targets = synthetic.batch(0, mix(self.seed, Purpose.HEAD_INNER_RUN, step))
            constants, sizes = synthetic.constants(), synthetic.step_sizes()
        seen = real.batch(
            self.real_batch_size, mix(self.seed, Purpose.HEAD_REAL_BATCH, step, index)
        )
        images_leaf = images.detach().requires_grad_()
        with self._features(backbone, images_leaf) as (features, pull):
            found = self.objective.gradient(
                features.detach(),
                targets.detach(),
                (seen[0].to(features), seen[1].to(targets.device)),
                num_classes=synthetic.recipe.num_classes,
                step_sizes=sizes.detach(),
                constants={name: t.detach() for name, t in constants.items()},
                seed=mix(self.seed, Purpose.HEAD_OBJECTIVE, step, index),
            )
            images_bar = pull(found.features)
        pairs: list[tuple[Tensor, Tensor | None]] = [
            (images, images_bar),
            (targets, found.targets),
            (sizes, found.step_sizes),
            *((constants[name], bar) for name, bar in found.constants.items()),
        ]
        wanted = [(t, bar) for t, bar in pairs if bar is not None and t.requires_grad]
        slopes = torch.autograd.grad(
            [t for t, _ in wanted], leaves, [bar.to(t) for t, bar in wanted], allow_unused=True
        )
        gradients = tuple(
            torch.zeros_like(leaf) if slope is None else slope
            for leaf, slope in zip(leaves, slopes, strict=True)
        )
        finite = found.finite and bool(
            torch.nn.utils.get_total_norm(gradients, float("inf")).isfinite()
        )
        return HeadStep(found.loss, gradients, finite)

    @contextlib.contextmanager
    def _features(self, backbone: Backbone, images: Tensor) -> Iterator[Any]:
        """Features of images, and what pulls a gradient for them back to the images.

        In one pass where all images fit into a batch. Otherwise batch by batch: without a graph
        first, and with one again on the way back, so that no more than one batch's is in memory.
        """
        parts = images.split(self.batch_size)
        if len(parts) == 1:
            with torch.enable_grad():
                features = self._forward(backbone, images)
            yield features, lambda bar: torch.autograd.grad(features, images, bar.to(features))[0]
            return
        with torch.no_grad():
            features = torch.cat([self._forward(backbone, part) for part in parts])

        def pull(bar: Tensor) -> Tensor:
            found = []
            for part, own in zip(parts, bar.split(self.batch_size), strict=True):
                with torch.enable_grad():
                    leaf = part.detach().requires_grad_()
                    again = self._forward(backbone, leaf)
                found.append(torch.autograd.grad(again, leaf, own.to(again))[0])
            return torch.cat(found)

        yield features, pull

    def _forward(self, backbone: Backbone, images: Tensor) -> Tensor:
        with torch.autocast(
            images.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None
        ):
            features = backbone(images)
        return features.to(images.dtype)

    # What `Networks` has, too.

    def state_dict(self) -> dict[str, Any]:
        """Nothing: every step is a function of the seed and its number."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `state_dict`."""

    def summary(self) -> dict[str, Any]:
        """What a record says of the networks."""
        first = self.backbones[0]
        return {
            "class": type(_inside(first)).__name__,
            "parameters": sum(p.numel() for p in first.parameters()),
            "backbones": [b.name for b in self.backbones],
        }


def _inside(backbone: Backbone) -> nn.Module:
    """The network that a backbone is made of."""
    return backbone.network.model
