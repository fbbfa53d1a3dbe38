"""The training images of a comparison: the distilled ones, and what stands beside them.

One vocabulary for the trainer, the command and the card. At the bottom of `evaluation`, beside
`scores`.
"""

from __future__ import annotations

import copy
from enum import StrEnum
from typing import Literal

from torch import Tensor

from dd_plugin.choices import BaselineName
from dd_plugin.data.parametrization import Pixels
from dd_plugin.data.synthetic import SyntheticSet

PixelKind = Literal["exact", "png"]


class TrainingImages(StrEnum):
    """The images that a network or a head of a comparison is trained on.

    The value is the key of their accuracies in the record of a set.
    """

    DISTILLED = "distilled"
    EIGHT_BIT = "distilled, 8-bit"
    HARD_LABELS = "distilled, hard labels"
    LABELED_RANDOM = "random real, learned labels"
    RANDOM = "random real"
    CENTROID = "nearest to the centroid"
    HERDING = "herding"
    K_CENTER = "k-center"
    EASIEST = "easiest"
    HARDEST = "hardest"
    ALL = "full data"

    @classmethod
    def baseline(cls, name: BaselineName) -> TrainingImages:
        """Return the training images that a setting calls so."""
        return _BASELINES[name]

    @classmethod
    def distilled(cls, pixels: PixelKind) -> TrainingImages:
        """Return the distilled images with exact pixels, or with those of PNG files."""
        return cls.EIGHT_BIT if pixels == "png" else cls.DISTILLED

    @property
    def pixels(self) -> PixelKind | None:
        """The pixels of distilled images; None for real ones."""
        return _PIXELS.get(self)

    @property
    def is_trained_as_set(self) -> bool:
        """Whether networks are trained on them as on the set, not as on real images."""
        return self in _PIXELS or self in LABEL_CONTROLS

    @property
    def in_words(self) -> str:
        """The name in a row of an evaluation."""
        return _IN_WORDS[self]


_PIXELS: dict[TrainingImages, PixelKind] = {
    TrainingImages.DISTILLED: "exact",
    TrainingImages.EIGHT_BIT: "png",
    TrainingImages.HARD_LABELS: "exact",
}
_BASELINES: dict[BaselineName, TrainingImages] = {
    "hard_labels": TrainingImages.HARD_LABELS,
    "learned_labels_on_random": TrainingImages.LABELED_RANDOM,
    "random_real": TrainingImages.RANDOM,
    "centroid": TrainingImages.CENTROID,
    "herding": TrainingImages.HERDING,
    "k_center": TrainingImages.K_CENTER,
    "easiest": TrainingImages.EASIEST,
    "hardest": TrainingImages.HARDEST,
    "full_data": TrainingImages.ALL,
}
# All that may stand beside a set, in the order of a table.
BASELINES = tuple(_BASELINES.values())
# The set with other labels or other images. What labels are worth shows beside them.
LABEL_CONTROLS = (TrainingImages.HARD_LABELS, TrainingImages.LABELED_RANDOM)
# Real images that are chosen by where they lie, and by how networks learn them.
BY_PLACE = (TrainingImages.CENTROID, TrainingImages.HERDING, TrainingImages.K_CENTER)
BY_DIFFICULTY = (TrainingImages.EASIEST, TrainingImages.HARDEST)
# The baselines of `auto`.
OF_NETWORKS = (TrainingImages.RANDOM, TrainingImages.ALL)
OF_HEADS = (TrainingImages.RANDOM, *BY_PLACE, TrainingImages.ALL)
_IN_WORDS = {
    TrainingImages.DISTILLED: "distilled images",
    TrainingImages.EIGHT_BIT: "distilled images",
    TrainingImages.HARD_LABELS: "distilled images, hard labels",
    TrainingImages.LABELED_RANDOM: "random real images, learned labels",
    TrainingImages.RANDOM: "random real images",
    TrainingImages.CENTROID: "real images nearest to the centroid",
    TrainingImages.HERDING: "real images by herding",
    TrainingImages.K_CENTER: "real images by k-center",
    TrainingImages.EASIEST: "easiest real images by EL2N",
    TrainingImages.HARDEST: "hardest real images by EL2N",
    TrainingImages.ALL: "all real images",
}


def row_labels(distilled: str, shown: str, stored: str, real: str) -> dict[str, tuple[str, str]]:
    """Return name and number of images of each row of a table, by the key in a record.

    Args:
        distilled: the name of the distilled images.
        shown: how many of them networks are trained on.
        stored: how many images of full size take their storage.
        real: how many real images there are.
    """
    smaller = shown != stored
    few = "random real images of that storage" if smaller else "as many random real images"
    as_set = f"{shown}, stored as {stored}" if smaller else shown
    labeled = TrainingImages.LABELED_RANDOM
    labels = {
        TrainingImages.DISTILLED: (distilled, as_set),
        TrainingImages.EIGHT_BIT: (f"{distilled}, as PNG files have them", shown),
        TrainingImages.HARD_LABELS: (f"{distilled}, hard labels", as_set),
        labeled: (labeled.in_words, as_set),
        TrainingImages.RANDOM: (few, stored),
        **{images: (images.in_words, stored) for images in (*BY_PLACE, *BY_DIFFICULTY)},
        TrainingImages.ALL: (TrainingImages.ALL.in_words, real),
    }
    return {images.value: label for images, label in labels.items()}


def pixel_levels(images: Tensor) -> Tensor:
    """Return the levels from 0 to 255 that images in [0, 1] have in an 8-bit file."""
    return (images.detach().clamp(0, 1) * 255).round()


def eight_bit_images(images: Tensor) -> Tensor:
    """Return images in [0, 1] with the pixels of an 8-bit file, in their own dtype."""
    # In float32, as a reader of the file divides.
    return (pixel_levels(images).float() / 255).to(images.dtype)


def with_pixels(synthetic: SyntheticSet, pixels: PixelKind) -> SyntheticSet:
    """Return a copy of a set with its exact images, or with those of its 8-bit PNG files.

    Raises:
        ValueError: it is another kind of pixels.
    """
    if pixels not in ("exact", "png"):
        raise ValueError(f'`pixels` must be "exact" or "png", got {pixels!r}')
    chosen = copy.deepcopy(synthetic)
    if pixels == "png":
        chosen.parametrization = Pixels(eight_bit_images(synthetic.images()))
        chosen.requires_grad_(False)
    return chosen
