"""Accuracies of heads that are trained on a few images: distilled ones, real ones, or all.

After `probe` and `coresets`, below `comparison`. Each kind of training images gives a head by the
recipe's own solver, which is tested on features of real images.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dd_plugin.data import RealData
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.evaluation import difficulty
from dd_plugin.evaluation.coresets import random_rows
from dd_plugin.evaluation.label_controls import controlled, without_senseless
from dd_plugin.evaluation.probe import accuracy_of_head, fit_probe
from dd_plugin.evaluation.real_coresets import DIFFICULTY_RULES, RULES, rows_of
from dd_plugin.evaluation.scores import Scores
from dd_plugin.evaluation.training_images import (
    LABEL_CONTROLS,
    OF_HEADS,
    TrainingImages,
    eight_bit_images,
)
from dd_plugin.networks import Backbone, Features, Head, LinearHead
from dd_plugin.seeds import Purpose, mix


@dataclass
class HeadTest:
    """Heads on one backbone, and the features that they are tested on.

    Attributes:
        backbone: frozen.
        head: how one is trained.
        train: features of the real images to choose from; None where there are none.
        test: features of the real images to test on.
        images: the images that ``train`` has the features of, for recipes by which heads are
            trained on augmented copies as well; without them real images have no copies.
        batch_size: images per forward pass.
        as_probe: train them as linear probes are, by regularized logistic regression on the
            classes, and not as the recipe says.
    """

    backbone: Backbone
    head: Head
    train: Features | None
    test: Features
    batch_size: int = 128
    as_probe: bool = False
    images: RealData | None = None

    def accuracy(self, head: LinearHead) -> float:
        """Return the accuracy of a head on the test features."""
        return accuracy_of_head(head.weight, head.bias, self.test.values[0], self.test.labels)

    def distilled(self, synthetic: SyntheticSet, *, eight_bit: bool = False) -> float:
        """Return the accuracy of the head that is trained on a synthetic set.

        Args:
            synthetic: the set.
            eight_bit: its images as they are in PNG files.
        """
        if self.as_probe:
            head = probe_on(self.backbone, synthetic, self.batch_size, eight_bit=eight_bit)
            return self.accuracy(head)
        head = train_head(self.backbone, self.head, synthetic, self.batch_size, eight_bit=eight_bit)
        return self.accuracy(head)

    def controls(
        self,
        synthetic: SyntheticSet,
        per_class: int,
        seeds: Sequence[int],
        *,
        kinds: Collection[TrainingImages] = OF_HEADS,
    ) -> Iterator[tuple[TrainingImages, Scores]]:
        """Yield accuracies of heads trained on real images, as many of each class, and on all.

        Trained as the head of the set is, with hard labels and as many augmented copies; on all
        images by regularized logistic regression (`fit_probe`). What labels are worth comes first.

        Args:
            synthetic: the set, for the recipe and what it has learned about the training.
            per_class: real images of each class.
            seeds: of the random draws.
            kinds: of training images.
        """
        assert self.train is not None
        features, labels = self.train.values[0], self.train.labels
        classes = synthetic.recipe.num_classes
        yield from self._label_controls(synthetic, seeds, kinds)
        choices: dict[TrainingImages, list[Tensor]] = {}
        if TrainingImages.RANDOM in kinds:
            choices[TrainingImages.RANDOM] = [
                random_rows(
                    features,
                    labels,
                    per_class,
                    seed=mix(seed, Purpose.HEAD_BASELINE_ROWS),
                    num_classes=classes,
                )
                for seed in seeds
            ]
        for images, rule in RULES.items():
            if images in kinds:
                choices[images] = [rule(features, labels, per_class, num_classes=classes)]
        choices |= self._by_difficulty(per_class, classes, kinds)
        features_of = self._features_of_rows(synthetic, choices)
        for images, choice in choices.items():
            heads = (self._train(synthetic, features_of(rows), labels[rows]) for rows in choice)
            drawn = tuple(seeds) if images is TrainingImages.RANDOM else ()
            yield images, Scores(tuple(map(self.accuracy, heads)), seeds=drawn)
        if TrainingImages.ALL in kinds:
            probe = fit_probe(
                features, labels, classes, seed=mix(seeds[0], Purpose.FULL_BASELINE_PROBE)
            )
            accuracy = self.accuracy(LinearHead(probe.weight, probe.bias))
            yield TrainingImages.ALL, Scores((accuracy,), seeds=tuple(seeds[:1]))

    def _label_controls(
        self, synthetic: SyntheticSet, seeds: Sequence[int], kinds: Collection[TrainingImages]
    ) -> Iterator[tuple[TrainingImages, Scores]]:
        """Yield accuracies of heads trained on the set with other labels, or other images."""
        # Where the real images are not at hand, only their features, none can be drawn.
        wanted = [kind for kind in LABEL_CONTROLS if kind in kinds and self.images is not None]
        for kind in without_senseless(wanted, synthetic, self.images, classes_alone=self.as_probe):
            assert self.images is not None
            drawn = tuple(seeds) if kind is TrainingImages.LABELED_RANDOM else ()
            sets = (controlled(synthetic, kind, self.images, seed) for seed in drawn or (0,))
            yield kind, Scores(tuple(map(self.distilled, sets)), seeds=drawn)

    def _by_difficulty(
        self, per_class: int, classes: int, kinds: Collection[TrainingImages]
    ) -> dict[TrainingImages, list[Tensor]]:
        """Return the rows of the easiest and of the hardest images, as far as they are wanted."""
        wanted = {images: rule for images, rule in DIFFICULTY_RULES.items() if images in kinds}
        if not wanted:
            return {}
        assert self.train is not None
        features, labels = self.train.values[0], self.train.labels
        scores = difficulty.of_features(features, labels, classes)
        return {
            images: [rule(scores, labels, per_class, num_classes=classes)]
            for images, rule in wanted.items()
        }

    def _features_of_rows(
        self, synthetic: SyntheticSet, choices: Mapping[TrainingImages, Sequence[Tensor]]
    ) -> Callable[[Tensor], Tensor]:
        """Return the features of chosen real images by their rows, with copies as in the recipe."""
        assert self.train is not None
        features = self.train.values[0]
        if self.images is None or not choices or not copies_of(synthetic):
            return lambda rows: features[rows]
        wanted = torch.cat([rows for chosen in choices.values() for rows in chosen]).unique()
        images = rows_of(self.images, wanted, self.batch_size)

        def with_copies(rows: Tensor) -> Tensor:
            chosen = images[torch.searchsorted(wanted, rows)].to(synthetic.images())
            return _features(self.backbone, synthetic, chosen, self.batch_size)

        return with_copies

    def _train(self, synthetic: SyntheticSet, features: Tensor, labels: Tensor) -> LinearHead:
        labels = _with_copies(labels, features)
        if self.as_probe:
            probe = fit_probe(features, labels, synthetic.recipe.num_classes)
            return LinearHead(probe.weight, probe.bias)
        return self.head.fit(
            features.to(synthetic.step_sizes()),
            labels.to(synthetic.labels.device),
            num_classes=synthetic.recipe.num_classes,
            step_sizes=synthetic.step_sizes().detach(),
            constants=_detached(synthetic.constants()),
        )


@torch.no_grad()
def train_head(
    backbone: Backbone,
    head: Head,
    synthetic: SyntheticSet,
    batch_size: int = 128,
    *,
    eight_bit: bool = False,
) -> LinearHead:
    """Return the head that is trained on a synthetic set.

    On its images, and on as many augmented copies of each as the recipe says (`head_copies`).

    Args:
        backbone: frozen.
        head: how it is trained.
        synthetic: the set.
        batch_size: images per forward pass.
        eight_bit: the images as they are in PNG files.
    """
    features = _features_of_set(backbone, synthetic, batch_size, eight_bit)
    return head.fit(
        features,
        _with_copies(synthetic.targets().detach(), features),
        num_classes=synthetic.recipe.num_classes,
        step_sizes=synthetic.step_sizes().detach(),
        constants=_detached(synthetic.constants()),
    )


@torch.no_grad()
def probe_on(
    backbone: Backbone, synthetic: SyntheticSet, batch_size: int = 128, *, eight_bit: bool = False
) -> LinearHead:
    """Return the head of a linear probe on the images of a set and their classes."""
    features = _features_of_set(backbone, synthetic, batch_size, eight_bit)
    labels = _with_copies(synthetic.labels, features)
    probe = fit_probe(features, labels, synthetic.recipe.num_classes)
    return LinearHead(probe.weight, probe.bias)


def _features_of_set(
    backbone: Backbone, synthetic: SyntheticSet, batch_size: int, eight_bit: bool = False
) -> Tensor:
    images = synthetic.images().detach()
    if eight_bit:
        images = eight_bit_images(images)
    return _features(backbone, synthetic, images, batch_size)


def _with_copies(labels: Tensor, features: Tensor) -> Tensor:
    """Return the labels of images, and of their copies, for as many rows as there are features."""
    return torch.cat([labels] * (len(features) // len(labels)))


def copies_of(synthetic: SyntheticSet) -> int:
    """Return how many augmented copies of an image a head is trained on, beside the image."""
    return synthetic.recipe.head_copies if synthetic.augmentation.names else 0


@torch.no_grad()
def _features(
    backbone: Backbone, synthetic: SyntheticSet, images: Tensor, batch_size: int
) -> Tensor:
    """Return features of the images, then of one augmented copy of each after the other."""
    augmented = (
        synthetic.augmentation(images, mix(0, Purpose.HEAD_COPIES, copy))
        for copy in range(copies_of(synthetic))
    )
    return torch.cat(
        [
            backbone(part).to(images.dtype)
            for every in (images, *augmented)
            for part in every.split(batch_size)
        ]
    )


def _detached(constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach() for name, t in constants.items()}
