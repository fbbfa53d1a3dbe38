"""A tiny data set that can be learned, and settings for runs of seconds on it."""

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PillowImage
from torch import nn
from torch.nn import functional as F

from dd_plugin.distiller import Distiller, DistillerConfig

CLASSES = ("left", "right", "middle")


def toy_dataset(count=60, seed=0, size=8):
    """Gray images of 8x8: a bright left half, right half or middle, under noise."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    images = random.integers(0, 120, (count, size, size))
    for image, label in zip(images, labels, strict=True):
        half = size // 2
        place = (slice(0, half), slice(half, size), slice(size // 4, size - size // 4))[label]
        image[:, place] += 100
    features = Features({"image": Image(), "label": ClassLabel(names=list(CLASSES))})
    pictures = [PillowImage.fromarray(image.astype(np.uint8)) for image in images]
    return Dataset.from_dict({"image": pictures, "label": labels.tolist()}, features=features)


# Half as long to trace, with a layer of each kind.
SHALLOW = {"width": 4, "depth": 1, "norm_layer": "batchnorm2d"}


def toy_config(folder, **options):
    settings = {
        "output_dir": str(folder),
        "model_args": {"width": 4, "depth": 2, "norm_layer": "batchnorm2d"},
        "dataset": "toy",
        "max_steps": 4,
        "inner_steps": 3,
        "inner_lr": 0.05,
        "real_batch_size": 12,
        "eval_steps": 0,
        "save_steps": 0,
        "logging_steps": 2,
        "disable_tqdm": True,
        "baselines": False,
        "dtype": "float64",
        # A trace takes longer than a run of four steps does without one.
        "compile": "no",
    }
    if options.get("init") != "fixed":
        settings |= {"eval_networks": 2, "final_eval_networks": 2}
    return DistillerConfig(**{**settings, **options})


def toy_distiller(folder, *, model_init=None, callbacks=(), kind=Distiller, **options):
    return kind(
        model_init,
        toy_config(folder, **options),
        toy_dataset(),
        toy_dataset(30, seed=1),
        callbacks=callbacks,
    )


class Small(nn.Module):
    """A network to be frozen: convolution, BatchNorm with statistics of its own, a linear head."""

    def __init__(self, width=6, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(3, width, 3, stride=2)
            self.norm = nn.BatchNorm2d(width)
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)
            self.fc = nn.Linear(width, 7)

    def features(self, x):
        return F.gelu(self.norm(self.conv(x))).mean((2, 3))

    def forward(self, x):
        return self.fc(self.features(x))


def head_distiller(folder, model=None, data=None, **settings):
    settings = {
        "trainable": "head",
        "normalization": "none",
        "max_steps": 4,
        "eval_steps": 0,
        "save_steps": 0,
        "real_batch_size": 16,
        "disable_tqdm": True,
        "output_dir": str(folder / "out"),
        **settings,
    }
    data = toy_dataset() if data is None else data
    return Distiller(model or Small(), DistillerConfig(**settings), data, toy_dataset(seed=1))
