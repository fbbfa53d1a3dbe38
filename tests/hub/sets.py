"""Small distilled sets as folders, and a Hub with accounts to push them to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from dd_plugin import DistilledDataset
from dd_plugin.bn import convert_bn
from dd_plugin.data.network_records import BackboneRecord
from dd_plugin.data.parametrization import Pixels, Upsampled
from dd_plugin.data.recipe import Recipe
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.data.transforms import Normalization
from dd_plugin.hub.folder import write_set
from dd_plugin.hub.record import Result
from dd_plugin.networks.backbones import load_backbone
from dd_plugin.networks.fresh import fresh_network, learnable_constants
from dd_plugin.networks.head_solvers import RidgeHead
from tests.distiller.toy import CLASSES, Small, toy_dataset
from tests.hub.repositories import Account

CARD = """---
task_categories:
- image-classification
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
---
# A distilled set
"""

ACCOUNTS = {
    "ada-token": Account("ada", orgs={"lab": "write", "club": "read"}),
    "bob-token": Account("bob"),
    "ada-reads": Account("ada", "read"),
    "ada-fine": Account("ada", "fineGrained", scopes={"ada/one": ["repo.write"]}),
}


def synthetic_set(
    count: int = 6,
    seed: int = 0,
    shape: tuple[int, int, int] = (1, 4, 4),
    classes: tuple[str, ...] = ("left", "right", "middle"),
) -> SyntheticSet:
    """Random images, one class after the other."""
    generator = torch.Generator().manual_seed(seed)
    channels = shape[0]
    return SyntheticSet(
        Recipe(shape=shape, class_names=classes, steps=2),
        Pixels(torch.rand(count, *shape, generator=generator)),
        torch.arange(count) % len(classes),
        torch.tensor([0.1, 0.2]),
        transform=Normalization([0.5] * channels, [0.25] * channels),
    )


def set_folder(folder: Path, count: int = 6, seed: int = 0) -> Path:
    """The folder of a distilled set, with a card of our own and things that are not published."""
    write_set(folder, synthetic_set(count, seed))
    (folder / "README.md").write_text(CARD)
    (folder / "checkpoint-3").mkdir(exist_ok=True)
    (folder / "checkpoint-3" / "tensors.safetensors").write_bytes(b"half done")
    (folder / ".hidden").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    return folder


# --- sets that one can train on, as a run leaves them ---------------------------------------------

# Pixels as they are.
RAW = Normalization([0.0] * 3, [1.0] * 3)


def images_of_classes(count: int = 1, seed: int = 0) -> torch.Tensor:
    """Gray images ``(3 count, 1, 8, 8)`` of the toy classes, sorted by class, none of 8 bits."""
    rows = toy_dataset(3 * count, seed)
    pixels = torch.stack([torch.from_numpy(np.array(image)) for image in rows["image"]])
    return pixels[torch.tensor(rows["label"]).argsort(stable=True), None] / 260 + 0.001


def toy_set(folder: Path, *, measured: int = 2, factor: int = 1, **recipe: Any) -> Path:
    """A set of one image per class on which networks learn the toy classes.

    Its record has the accuracies of so many networks, as a run measures and notes them.
    """
    values: dict[str, Any] = {"steps": 12, "statistics": "tracked", "model": "timm/dd_convnet"}
    values |= {"model_args": {"width": 4, "depth": 2, "norm_layer": "batchnorm2d"}, **recipe}
    images = images_of_classes(factor * factor)
    network = fresh_network(values["model"], 0, 3, (1, 8, 8), values["model_args"])
    synthetic = SyntheticSet(
        Recipe(shape=(1, 8, 8), class_names=CLASSES, **values),
        Pixels(images) if factor == 1 else Upsampled(images, factor),
        torch.arange(3).repeat_interleave(factor * factor),
        torch.full((values["steps"],), 0.1),
        transform=Normalization([0.4], [0.25]),
        constants=learnable_constants(convert_bn(network, statistics=values["statistics"])),
    )
    return _with_results(folder, synthetic, None, toy_dataset(30, seed=1), measured)


def head_set(
    folder: Path,
    model: Any = None,
    *,
    normalization: Normalization | None = RAW,
    image_size: int | None = None,
    feature_layer: str | None = None,
    measured: bool = False,
    **recipe: Any,
) -> Path:
    """A set of three color images for the heads of frozen networks, which have no names.

    Args:
        folder: for the set.
        model: a network or several; by default `Small`.
        normalization: of their input; None for their own.
        image_size: of their input.
        feature_layer: the layer whose output the features are.
        measured: whether the record has accuracies on the toy images.
        recipe: settings of `Recipe`.
    """
    models = model if isinstance(model, list) else [Small() if model is None else model]
    options: dict[str, Any] = {"normalization": normalization, "feature_layer": feature_layer}
    frozen = [load_backbone(m, image_size=image_size, **options) for m in models]
    noted = tuple(
        BackboneRecord(
            None,
            backbone.fingerprint,
            None,
            backbone.size,
            backbone.num_features,
            tuple(backbone.normalization.mean),
            tuple(backbone.normalization.std),
            backbone.feature_layer,
        )
        for backbone in frozen
    )
    values: dict[str, Any] = {"head": "ridge", "steps": 1, **recipe}
    is_ridge = values["head"] == "ridge"
    synthetic = SyntheticSet(
        Recipe(shape=(3, 8, 8), class_names=CLASSES, trainable="head", backbones=noted, **values),
        Pixels(images_of_classes().repeat(1, 3, 1, 1)),
        torch.arange(3),
        torch.ones(()) if is_ridge else torch.full((values["steps"],), 0.1),
        transform=Normalization([0.0] * 3, [1.0] * 3),
        learn_step_sizes=not is_ridge,
        constants=RidgeHead().initial_constants() if is_ridge else None,
    )
    test = toy_dataset(seed=1)
    return _with_results(folder, synthetic, models[0] if measured else None, test, measured)


def _with_results(
    folder: Path, synthetic: SyntheticSet, model: Any, test: Any, networks: int
) -> Path:
    write_set(folder, synthetic)
    if networks:
        opened = DistilledDataset.from_pretrained(folder)
        scores = opened.evaluate(model, test, networks=networks)
        noted = {"distilled": Result.of(scores)}
        about = {"dataset": None, "split": None, "images": len(test)}
        write_set(folder, synthetic, results=noted, protocol=about)
    return folder
