"""Toy images with a tint each, and runs on them whose images are a pyramid."""

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PillowImage

from dd_plugin.distiller import Distiller
from tests.distiller.toy import CLASSES, toy_config, toy_dataset

PYRAMID = {
    "parametrization": "pyramid",
    "color_space": "decorrelated",
    "augmentation": "resizedcrop+flip+noise",
    "augmentations_per_step": 2,
}


def colored_dataset(count=60, seed=0):
    """The toy images with a tint of their own each: channels that are correlated, not equal."""
    random = np.random.default_rng(seed)
    gray = toy_dataset(count, seed)
    tints = random.integers(-20, 21, (count, 1, 1, 3))
    pixels = np.stack([np.array(image) for image in gray["image"]])[..., None] + tints
    pictures = [PillowImage.fromarray(image.clip(0, 255).astype(np.uint8)) for image in pixels]
    features = Features({"image": Image(), "label": ClassLabel(names=list(CLASSES))})
    return Dataset.from_dict({"image": pictures, "label": gray["label"]}, features=features)


def colored_distiller(folder, **options):
    config = toy_config(folder, **{**PYRAMID, **options})
    return Distiller(None, config, colored_dataset(), colored_dataset(30, seed=1))
