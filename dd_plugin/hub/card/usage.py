"""How to load a distilled set, on its card: three ways, each a few lines of Python that run.

Used by `text`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dd_plugin.hub.card.markdown import decimal, fenced, number, table
from dd_plugin.hub.card.results import accuracy

PLACEHOLDER = "USER/NAME"
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_FILES = [
    ("`data/`", "the images as PNG and their labels: an ordinary image data set"),
    ("`tensors.safetensors`", "exact images and labels, step sizes, what belongs to BatchNorm"),
    ("`recipe.json`", "the recipe, the results and every setting"),
    ("`preview.png`", "the picture above"),
]
_HEAD_FILES = [
    (name, "exact images and labels, what was learned about training a head" if tensors else text)
    for name, text in _FILES
    for tensors in ["tensors" in name]
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
    for_heads = _is_for_heads(record["recipe"])
    whose = "normalisation of the first frozen network" if for_heads else "recipe's normalisation"
    numbers = f" (the numbers are the {whose})" if _normalization(record) else ""
    return "\n\n".join(
        [
            f"## How to use it{stands_for}",
            "As images and labels, like any data set:",
            fenced(_as_data_set(name), "python"),
            f"By the recipe{_reached(record)}:",
            fenced(_by_the_recipe(name, record), "python"),
            "In a training of your own, for whose accuracy nothing is promised, with the `Trainer` "
            f"of transformers or with timm{numbers}:",
            fenced(_with_trainer(name, record), "python"),
            fenced(_with_timm(name, record), "python"),
            table(("file", "holds"), _HEAD_FILES if for_heads else _FILES),
        ]
    )


def _is_for_heads(recipe: Mapping[str, Any]) -> bool:
    return recipe.get("trainable") == "head"


def has_random_weights(recipe: Mapping[str, Any]) -> bool:
    """Whether the frozen networks of a set for heads were drawn, and are not to be had again."""
    arguments = recipe.get("model_args") or {}
    return _is_for_heads(recipe) and arguments.get("pretrained") is False


def _reached(record: Mapping[str, Any]) -> str:
    """What training as the recipe says comes to."""
    recipe = record["recipe"]
    distilled = (record.get("results") or {}).get("distilled") or {}
    if not accuracy(distilled) or has_random_weights(recipe):
        return ""
    if _is_for_heads(recipe) and len(recipe.get("backbones") or []) > 1:
        return " (the accuracy above is the mean over the frozen networks)"
    if recipe.get("networks"):
        return ", here with the first of its networks, which gives the accuracy above"
    return ", which gives the accuracy above"


def _as_data_set(name: str) -> str:
    return (
        "from datasets import load_dataset\n\n"
        f'images = load_dataset("{name}", split="train")\n'
        'images[0]["image"], images[0]["label"]'
    )


def _by_the_recipe(name: str, record: Mapping[str, Any]) -> str:
    recipe = record["recipe"]
    arguments, comments = [], []
    if not recipe.get("model") and _is_for_heads(recipe):
        arguments.append("network")
        comments.append("network is the one that it was distilled for, or the name of another")
    elif not recipe.get("model"):
        arguments.append("make_network")
        comments.append("make_network() gives a fresh network, such as it was distilled for")
    if recipe.get("loss") == "custom":
        arguments.append("loss=loss")
        comments.append("loss(logits, labels) is its author's own")
    if recipe.get("trainable") == "head":
        return (
            "from dd_plugin import DistilledDataset\n\n"
            f'distilled = DistilledDataset.from_pretrained("{name}")\n'
            + "".join(f"# {comment}\n" for comment in comments)
            + f"model = distilled.fit({', '.join(arguments)})  # the pretrained model, its head "
            "trained\n"
            "distilled.predict(model, image)  # an image of Pillow: classes and probabilities"
        )
    given = ", ".join([*arguments, "seed=0"])
    return (
        "from dd_plugin import DistilledDataset\n\n"
        f'distilled = DistilledDataset.from_pretrained("{name}")\n'
        + "".join(f"# {comment}\n" for comment in comments)
        + f"model = distilled.fit({given})  # an ordinary network, trained"
    )


def _normalization(record: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
    transform = record.get("transform") or {}
    if _is_for_heads(record["recipe"]):
        # Pixels go into a frozen network as they are, and it normalises them itself.
        first = next(iter(record["recipe"].get("backbones") or []), None)
        transform = {**first, "kind": "normalization"} if isinstance(first, Mapping) else {}
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
    steps = ["v2.ToImage()", "v2.ToDtype(torch.float32, scale=True)"]
    if found:
        steps.append(f"v2.Normalize({_numbers(found[0])}, {_numbers(found[1])})")
    model = f"num_channels={int(recipe['shape'][0])}, num_labels={len(recipe['class_names'])}"
    return (
        "import torch\n"
        "from datasets import load_dataset\n"
        "from torchvision.transforms import v2\n"
        "from transformers import ResNetConfig, ResNetForImageClassification\n"
        "from transformers import Trainer, TrainingArguments\n\n"
        "prepare = v2.Compose(\n"
        "    [\n" + "".join(f"        {step},\n" for step in steps) + "    ]\n"
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
    mean, std = _normalization(record) or ([0.0] * channels, [1.0] * channels)
    options = {
        "input_size": (channels, height, width),
        # Not more than there are: timm leaves out a last batch that is not full.
        "batch_size": min(int(record["images"]["count"]), 64),
        "is_training": True,
        "no_aug": True,
        "mean": _numbers(mean),
        "std": _numbers(std),
        "use_prefetcher": False,
    }
    mode = "L" if channels == 1 else "RGB"
    return (
        "from timm.data import create_dataset, create_loader\n\n"
        f'images = create_dataset("hfds/{name}", split="train", input_img_mode="{mode}")\n'
        "loader = create_loader(\n"
        "    images,\n" + "".join(f"    {key}={value},\n" for key, value in options.items()) + ")"
    )
