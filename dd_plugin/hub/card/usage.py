"""The section of a card on loading the set: three ways, each a few lines of Python that run.

Used by `text`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dd_plugin.hub.card.markdown import Markdown, decimal
from dd_plugin.hub.card.results import accuracy
from dd_plugin.hub.card.words import BLOCKS, joined, python, say, table_of_rows
from dd_plugin.hub.record import Record

PLACEHOLDER = "USER/NAME"
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def usage_text(record: Record) -> Markdown:
    """Return the section."""
    repo_id = record.about.config.hub_dataset_id
    known = repo_id is not None and _REPO_ID.fullmatch(repo_id) is not None
    name = repo_id if known and repo_id is not None else PLACEHOLDER
    whose = "network" if record.is_for_heads else "recipe"
    numbers = say(f"usage.numbers_of_the_{whose}") if _normalization(record) else ""
    tensors = say(f"usage.tensors_of_{'heads' if record.is_for_heads else 'networks'}")
    return joined(
        [
            say("usage"),
            Markdown() if known else say("usage.stands_for"),
            say("usage.data_set"),
            python("python.data_set", name=name),
            say("usage.recipe", reached=_reached(record)),
            _by_the_recipe(name, record),
            say("usage.own_training", numbers=numbers),
            _with_trainer(name, record),
            _with_timm(name, record),
            table_of_rows("usage.files_header", "usage.files", tensors=tensors),
        ],
        "\n\n",
    )


def _reached(record: Record) -> Markdown:
    """Return the words for what training by the recipe comes to."""
    if not accuracy(record.distilled) or record.has_random_weights:
        return Markdown()
    if record.is_for_heads and len(record.recipe.backbones) > 1:
        return say("usage.reached_on_average")
    return say("usage.reached_by_the_first" if record.recipe.networks else "usage.reached")


def _by_the_recipe(name: str, record: Record) -> Markdown:
    recipe = record.recipe
    arguments, comments = [], []
    if not recipe.model:
        argument = "network" if record.is_for_heads else "make_network"
        arguments.append(argument)
        comments.append(f"python.comment_on_{argument}")
    if recipe.loss == "custom":
        arguments.append("loss=loss")
        comments.append("python.comment_on_loss")
    if not record.is_for_heads:
        arguments.append("seed=0")
    return python(
        "python.recipe_of_heads" if record.is_for_heads else "python.recipe",
        name=name,
        comments="".join(f"{BLOCKS[comment].template}\n" for comment in comments),
        arguments=", ".join(arguments),
    )


def _normalization(record: Record) -> tuple[Sequence[float], Sequence[float]] | None:
    """Mean and standard deviation of the network input, where that is normalized pixels."""
    transform, backbones = record.transform, record.recipe.backbones
    if record.is_for_heads:
        # Pixels go into a frozen network as they are, and it normalizes them itself.
        mean, std = backbones[0].mean, backbones[0].std
    elif transform.kind == "normalization":
        mean, std = transform.mean, transform.std
    else:
        return None
    return (mean, std) if len(mean) == len(std) == record.recipe.shape[0] else None


def _numbers(values: Sequence[float]) -> str:
    return "[" + ", ".join(decimal(value) for value in values) + "]"


def _with_trainer(name: str, record: Record) -> Markdown:
    normalize = ""
    if normalization := _normalization(record):
        mean, std = map(_numbers, normalization)
        normalize = BLOCKS["python.normalize"].substitute(mean=mean, std=std) + "\n"
    return python(
        "python.trainer",
        name=name,
        normalize=normalize,
        channels=str(record.recipe.shape[0]),
        classes=str(record.recipe.num_classes),
    )


def _with_timm(name: str, record: Record) -> Markdown:
    channels, height, width = record.recipe.shape
    mean, std = _normalization(record) or ([0.0] * channels, [1.0] * channels)
    return python(
        "python.timm",
        name=name,
        mode="L" if channels == 1 else "RGB",
        channels=str(channels),
        height=str(height),
        width=str(width),
        # Not more than there are: timm leaves out a last batch that is not full.
        batch_size=str(min(record.images.count, 64)),
        mean=_numbers(mean),
        std=_numbers(std),
    )
