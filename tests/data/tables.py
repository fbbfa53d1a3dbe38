"""Small labelled image data sets whose rows can be told apart, and images to fit transforms to."""

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

from dd_plugin.data.real.dataset import RealData

NAMES = ["ant", "bee", "cow"]


def images(count=30, shape=(4, 5), seed=0):
    """Random images whose first pixel is their row, so that they can be told apart."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
    pixels.reshape(count, -1)[:, 0] = np.arange(count) % 256
    return pixels


def table(pixels, labels=None, names=NAMES):
    labels = [row % len(names) for row in range(len(pixels))] if labels is None else labels
    return Dataset.from_dict(
        {"image": [PILImage.fromarray(each) for each in pixels], "label": labels},
        features=Features(image=Image(), label=ClassLabel(names=names)),
    )


def damaged(dataset, row, body=b"no image"):
    """The same table with other bytes in place of one image."""
    cells = dataset.with_format("arrow")[:]["image"].to_pylist()
    cells[row] = None if body is None else {"bytes": body, "path": None}
    return Dataset.from_dict({"image": cells, "label": dataset["label"]}, features=dataset.features)


def rows_of(batch):
    """The rows that `images` gave their first pixel."""
    return (batch[:, 0, 0, 0] * 255).round().int().tolist()


def correlated_images(count=200, shape=(3, 4, 5), seed=0):
    """Correlated pixels in [0, 1], float64: neighbours share a part."""
    noise = torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)).double()
    scale = torch.linspace(0.3, 1.0, shape[0], dtype=torch.float64).view(-1, 1, 1)
    return scale * (noise + noise.roll(1, -1)) / 2


def real_data(pixels):
    """The same pixels as a data set of two classes."""
    return RealData.from_dataset([(image, row % 2) for row, image in enumerate(pixels.float())])
