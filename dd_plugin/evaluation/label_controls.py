"""The labels of a distilled set told apart from its images: two sets made of it.

Below `comparison` and `heads`, which train on both exactly as on the set itself: by its recipe or
as usual, with its step sizes, augmentation and storage. One has the distilled images with plain
classes. The other has random real images with the learned labels of the distilled ones.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Iterable

import torch

from dd_plugin.data import RealData
from dd_plugin.data.parametrization import Pixels, Upsampled
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.evaluation.training_images import LABEL_CONTROLS, TrainingImages
from dd_plugin.seeds import Purpose, mix

logger = logging.getLogger(__name__)


def controlled(
    synthetic: SyntheticSet, kind: TrainingImages, train: RealData, seed: int
) -> SyntheticSet:
    """Return the set of one of `LABEL_CONTROLS`.

    Args:
        synthetic: the distilled set, with learned labels.
        kind: which of the two.
        train: real images to draw from.
        seed: of the draw.
    """
    if kind is TrainingImages.HARD_LABELS:
        return with_hard_labels(synthetic)
    return with_random_images(synthetic, train, seed)


def with_hard_labels(synthetic: SyntheticSet) -> SyntheticSet:
    """Return a copy of a set whose labels are the plain classes of its images."""
    changed = copy.deepcopy(synthetic)
    changed.learned_labels, changed.label_form = None, None
    return changed


@torch.no_grad()
def with_random_images(synthetic: SyntheticSet, train: RealData, seed: int) -> SyntheticSet:
    """Return a copy of a set with a random real image of the same class in the place of each image.

    Labels, step sizes and what was learned about BatchNorm stay. The real images are stored as
    small as the distilled ones are.

    Args:
        synthetic: the set.
        train: real images to draw from, without replacement.
        seed: of the draw.

    Raises:
        DataError: a class has fewer real images than the set has of it.
    """
    classes = synthetic.classes
    most = int(torch.bincount(classes).max())
    images, labels = train.of_each_class(most, mix(seed, Purpose.LABELED_IMAGES))
    rows = torch.empty_like(classes)
    for index in range(synthetic.recipe.num_classes):
        places = (classes == index).nonzero()[:, 0]
        rows[places] = (labels.cpu() == index).nonzero()[: len(places), 0]
    chosen = images[rows.to(images.device)].to(synthetic.images())
    changed = copy.deepcopy(synthetic)
    factor = synthetic.parametrization.factor
    changed.parametrization = Pixels(chosen) if factor == 1 else Upsampled(chosen, factor)
    changed.requires_grad_(False)
    return changed


def without_senseless(
    kinds: Iterable[TrainingImages],
    synthetic: SyntheticSet,
    train: RealData | None = None,
    *,
    classes_alone: bool,
) -> list[TrainingImages]:
    """Return kinds of training images without those that are the same as others, or cannot be.

    Says which ones it leaves out, and why.

    Args:
        kinds: to choose from.
        synthetic: the set.
        train: the real images to draw from.
        classes_alone: whether training takes the classes in the place of learned labels.
    """
    kinds = list(kinds)
    reason = None
    if synthetic.learned_labels is None:
        reason = "the set has no learned labels"
    elif classes_alone:
        reason = "this training takes the classes in the place of the learned labels"
    senseless: tuple[TrainingImages, ...] = LABEL_CONTROLS
    if reason is None and train is not None and (reason := _too_few(synthetic, train)):
        senseless = (TrainingImages.LABELED_RANDOM,)
    if reason is None or not set(kinds) & set(senseless):
        return kinds
    left_out = [kind.in_words for kind in kinds if kind in senseless]
    _say_once(f"no row of {' and of '.join(left_out)}: {reason}")
    return [kind for kind in kinds if kind not in senseless]


def _too_few(synthetic: SyntheticSet, train: RealData) -> str | None:
    """Return in words which class has more distilled images than real ones; None for a stream."""
    counts, wanted = train.class_counts(), int(synthetic.classes.bincount().max())
    if counts is None or min(counts) >= wanted:
        return None
    least = min(counts)
    name = train.class_names[counts.index(least)]
    return f"the set has {wanted} images of a class, but there are {least} real ones of {name!r}"


@functools.lru_cache
def _say_once(message: str) -> None:
    logger.warning(message)
