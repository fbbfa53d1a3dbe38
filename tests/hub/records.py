"""Records of distilled sets, and small sets, for the tests of what is made from them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from dd_plugin.data.parametrization import Pixels
from dd_plugin.data.recipe import Recipe
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.data.transforms import Normalization
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.hub.card import make_card
from dd_plugin.hub.record import Record

CLASSES = ("cat", "dog", "no")

_RECORD: dict[str, Any] = {
    "schema_version": 1,
    "recipe": Recipe(
        shape=(3, 8, 8),
        class_names=CLASSES,
        steps=23,
        optimizer="sgd",
        optimizer_args={"momentum": 0.85},
        augmentation="dsa",
        statistics="tracked",
        model="timm/dd_convnet",
        model_args={"width": 17},
    ).to_dict(),
    "transform": {"kind": "normalization", "mean": [0.41, 0.42, 0.43], "std": [0.21, 0.22, 0.26]},
    "images": {
        "count": 6,
        "per_class": 2,
        "soft_labels": False,
        "learned_step_sizes": True,
        "num_bytes": 1234,
    },
    "source": {
        "dataset": "someone/pets",
        "hub_id": "someone/pets",
        "train_split": "train",
        "images": 45678,
        "licenses": ["cc-by-4.0"],
    },
    "results": {
        "distilled": {"mean": 0.75, "std": 0.01, "accuracies": [0.74, 0.75, 0.76]},
        "random real": {"mean": 0.4, "std": 0.0283, "accuracies": [0.38, 0.42]},
        "full data": {"mean": 0.912, "std": 0.0, "accuracies": [0.912]},
    },
    "protocol": {
        "dataset": "someone/pets",
        "split": "test",
        "images": 987,
        "eval_mode": True,
        "command": "dd-plugin distill --dataset someone/pets --seed 5",
    },
    "evaluations": [
        {
            "model": "timm/resnet18",
            "trained_on": "distilled images",
            "protocol": "standard",
            "pixels": "png",
            "dataset": "someone/pets",
            "split": "test",
            "test_images": 987,
            "mean": 0.61,
            "std": 0.0141,
            "accuracies": [0.6, 0.62],
        }
    ],
    "about": {
        "config": DistillerConfig(
            dataset="someone/pets",
            images_per_class=2,
            inner_steps=23,
            window="random",
            window_length=14,
            learning_rate=0.003,
            real_batch_size=321,
            seed=5,
            augmentation="dsa",
        ).to_dict(),
        "outer_steps": 4321,
        "versions": {"dd_plugin": "0.1.0", "torch": "2.15.0", "datasets": "5.2.0"},
    },
    "files": {},
}


def a_record() -> dict[str, Any]:
    """A record with every part, for a test to change."""
    return copy.deepcopy(_RECORD)


def card_of(record: Mapping[str, Any]) -> str:
    """The card of a record as JSON has it."""
    return make_card(Record.from_json(record))


def bare_record() -> dict[str, Any]:
    """A record with nothing but what there always is."""
    record = a_record()
    for part in ("source", "results", "protocol", "evaluations", "about"):
        del record[part]
    return record


def a_set(class_names: tuple[str, ...] = CLASSES, per_class: int = 2) -> SyntheticSet:
    """A small colour set, each class of a brightness of its own."""
    recipe = Recipe(
        shape=(3, 8, 8),
        class_names=class_names,
        steps=2,
        statistics="tracked",
        model="timm/dd_convnet",
        model_args={"width": 4, "depth": 1},
    )
    labels = torch.arange(len(class_names)).repeat_interleave(per_class)
    images = torch.rand(len(labels), 3, 8, 8) * 0.2 + (labels / len(labels)).view(-1, 1, 1, 1)
    return SyntheticSet(
        recipe,
        Pixels(images),
        labels,
        torch.full((2,), 0.1),
        transform=Normalization([0.4] * 3, [0.2] * 3),
    )
