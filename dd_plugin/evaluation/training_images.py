"""The training images of a comparison: the distilled ones, and the real ones beside them.

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
    RANDOM = "random real"
    CENTROID = "nearest to the centroid"
    HERDING = "herding"
    K_CENTER = "k-center"
    ALL = "full data"

    @classmethod
    def baseline(cls, name: BaselineName) -> TrainingImages:
        """Return the real images that a setting calls so."""
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
    def in_words(self) -> str:
        """The name in a row of an evaluation."""
        return _IN_WORDS[self]


_PIXELS: dict[TrainingImages, PixelKind] = {
    TrainingImages.DISTILLED: "exact",
    TrainingImages.EIGHT_BIT: "png",
}
_BASELINES: dict[BaselineName, TrainingImages] = {
    "random_real": TrainingImages.RANDOM,
    "centroid": TrainingImages.CENTROID,
    "herding": TrainingImages.HERDING,
    "k_center": TrainingImages.K_CENTER,
    "full_data": TrainingImages.ALL,
}
# All kinds of real images, in the order of a table.
REAL = tuple(_BASELINES.values())
_IN_WORDS = {
    TrainingImages.DISTILLED: "distilled images",
    TrainingImages.EIGHT_BIT: "distilled images",
    TrainingImages.RANDOM: "random real images",
    TrainingImages.CENTROID: "real images nearest to the centroid",
    TrainingImages.HERDING: "real images by herding",
    TrainingImages.K_CENTER: "real images by k-center",
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
    chosen = (TrainingImages.CENTROID, TrainingImages.HERDING, TrainingImages.K_CENTER)
    labels = {
        TrainingImages.DISTILLED: (distilled, f"{shown}, stored as {stored}" if smaller else shown),
        TrainingImages.EIGHT_BIT: (f"{distilled}, as PNG files have them", shown),
        TrainingImages.RANDOM: (few, stored),
        **{images: (images.in_words, stored) for images in chosen},
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
