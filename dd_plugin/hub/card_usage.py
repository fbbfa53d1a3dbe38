"""How to load a distilled set, on its card: three ways, each a few lines of Python that run.

Used by `card`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from keyword import iskeyword
from typing import Any

from dd_plugin.hub.card_results import accuracy
from dd_plugin.hub.markdown import decimal, fenced, number, table

PLACEHOLDER = "USER/NAME"
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_MODEL = re.compile(r"[\w][\w./-]{0,199}", re.ASCII)
_LONGEST = 200
_FILES = [
    ("`data/`", "the images as PNG and their labels: an ordinary image data set"),
    ("`tensors.safetensors`", "exact images and labels, step sizes, what belongs to BatchNorm"),
    ("`recipe.json`", "the recipe, the results and every setting"),
    ("`preview.png`", "the picture above"),
]


def usage_text(record: Mapping[str, Any]) -> str:
    """The section."""
    config = (record.get("about") or {}).get("config") or {}
    found = config.get("hub_dataset_id")
    known = isinstance(found, str) and _REPO_ID.fullmatch(found) is not None
    name = str(found) if known else PLACEHOLDER
    stands_for = (
        "" if known else f"\n\n`{PLACEHOLDER}` stands for this repository's id or for its folder."
    )
    numbers = " (the numbers are the recipe's normalisation)" if _normalization(record) else ""
    distilled = (record.get("results") or {}).get("distilled") or {}
    reached = ", which gives the accuracy above" if accuracy(distilled) else ""
    return "\n\n".join(
        [
            f"## How to use it{stands_for}",
            "As images and labels, like any data set:",
            fenced(_as_data_set(name), "python"),
            f"By the recipe{reached}:",
            fenced(_by_the_recipe(name, record), "python"),
            "In a training of your own, which reaches what it reaches, with the `Trainer` of "
            f"transformers or with timm{numbers}:",
            fenced(_with_trainer(name, record), "python"),
            fenced(_with_timm(name, record), "python"),
            table(("file", "holds"), _FILES),
        ]
    )


def _as_data_set(name: str) -> str:
    return (
        "from datasets import load_dataset\n\n"
        f'images = load_dataset("{name}", split="train")\n'
        'images[0]["image"], images[0]["label"]'
    )


def _by_the_recipe(name: str, record: Mapping[str, Any]) -> str:
    return (
        "from dd_plugin import DistilledDataset\n"
        "from dd_plugin.models import load_model\n\n"
        f"model = load_model({_model_arguments(record)})\n"
        f'distilled = DistilledDataset.from_pretrained("{name}")\n'
        "distilled.fit(model, seed=0)"
    )


def _model_arguments(record: Mapping[str, Any]) -> str:
    """The network of the recipe, or another where it has no name that goes into a line of code."""
    recipe = record["recipe"]
    channels, height, width = (int(n) for n in recipe["shape"])
    size = height if height == width else (height, width)
    arguments = {"num_classes": len(recipe["class_names"]), "in_chans": channels, "img_size": size}
    model, given = recipe.get("model"), recipe.get("model_args") or {}
    if not isinstance(model, str) or not _MODEL.fullmatch(model):
        model, given = "timm/resnet18", {}
    if all(map(_is_argument, given)) and len(repr(given)) < _LONGEST:
        arguments |= given
    return ", ".join([f'"{model}"', *(f"{key}={value!r}" for key, value in arguments.items())])


def _is_argument(key: Any) -> bool:
    return isinstance(key, str) and key.isidentifier() and not iskeyword(key)


def _normalization(record: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
    transform = record.get("transform") or {}
    if transform.get("kind") != "normalization":
        return None
    mean, std = (
        [x for v in transform.get(key) or [] if (x := number(v)) is not None]
        for key in ("mean", "std")
    )
    channels = int(record["recipe"]["shape"][0])
    return (mean, std) if len(mean) == len(std) == channels else None


def _numbers(values: list[float]) -> str:
    return "[" + ", ".join(decimal(value) for value in values) + "]"


def _with_trainer(name: str, record: Mapping[str, Any]) -> str:
    recipe, found = record["recipe"], _normalization(record)
    normalize = f", v2.Normalize({_numbers(found[0])}, {_numbers(found[1])})" if found else ""
    model = f"num_channels={int(recipe['shape'][0])}, num_labels={len(recipe['class_names'])}"
    return (
        "import torch\n"
        "from datasets import load_dataset\n"
        "from torchvision.transforms import v2\n"
        "from transformers import ResNetConfig, ResNetForImageClassification\n"
        "from transformers import Trainer, TrainingArguments\n\n"
        "prepare = v2.Compose(\n"
        f"    [v2.ToImage(), v2.ToDtype(torch.float32, scale=True){normalize}]\n"
        ")\n"
        f'images = load_dataset("{name}", split="train").with_transform(\n'
        '    lambda rows: {"pixel_values": prepare(rows["image"]), "labels": rows["label"]}\n'
        ")\n"
        f"model = ResNetForImageClassification(ResNetConfig({model}))\n"
        'arguments = TrainingArguments("out", max_steps=100, remove_unused_columns=False)\n'
        "Trainer(model, arguments, train_dataset=images).train()"
    )


def _with_timm(name: str, record: Mapping[str, Any]) -> str:
    channels, height, width = (int(n) for n in record["recipe"]["shape"])
    # Not more than there are: timm leaves out a last batch that is not full.
    batch_size = min(int(record["images"]["count"]), 64)
    mode = "L" if channels == 1 else "RGB"
    found = _normalization(record)
    options = f", mean={_numbers(found[0])}, std={_numbers(found[1])}" if found else ""
    return (
        "from timm.data import create_dataset, create_loader\n\n"
        f'images = create_dataset("hfds/{name}", split="train", input_img_mode="{mode}")\n'
        "loader = create_loader(\n"
        f"    images, input_size=({channels}, {height}, {width}), batch_size={batch_size},\n"
        f"    is_training=True, no_aug=True, use_prefetcher=False{options},\n"
        ")"
    )
