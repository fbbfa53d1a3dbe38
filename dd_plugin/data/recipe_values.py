"""The values of a recipe as a file has them, checked before anything is made of them.

Used by `recipe`: anyone may have written the file. `check_amounts` is for settings,
which have the same bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dd_plugin.data.augmentation_names import augmentation_names
from dd_plugin.data.network_records import MOST_NETWORKS, check_arguments, is_plain_object

# Far over any training on a handful of images; a file that says more is damaged.
MOST_STEPS = 10_000_000
MOST_AUGMENTATIONS = 256


def check_types(values: Mapping[str, Any]) -> None:
    """Check the kinds and sizes of a recipe's values.

    Args:
        values: As they stand in the file, with a shape, class names and steps at least.

    Raises:
        ValueError: One of them is of another kind or too large.
    """

    def require(name: str, right: bool, what: str) -> None:
        if name in values and not right:
            shown = repr(values[name])
            shown = shown if len(shown) <= 80 else shown[:77] + "..."
            raise ValueError(f"`{name}` of the recipe must be {what}, got {shown}")

    shape, names = values["shape"], values["class_names"]
    require(
        "shape",
        isinstance(shape, (list, tuple))
        and len(shape) == 3
        and all(_is_whole(n, 1 << 16) for n in shape),
        "three whole numbers: channels, height, width",
    )
    require(
        "class_names",
        _is_list_of_names(names),
        "a list of names",
    )
    parameters = values.get("step_size_parameters")
    require(
        "step_size_parameters",
        parameters is None
        or (_is_list_of_names(parameters) and len(set(parameters)) == len(parameters)),
        "a list of different names or null",
    )
    require("steps", _is_whole(values["steps"], MOST_STEPS), f"a whole number up to {MOST_STEPS:,}")
    require("groups", _is_whole(values.get("groups"), MOST_STEPS), "a whole number from 1")
    require(
        "augmentations_per_step",
        _is_whole(values.get("augmentations_per_step"), MOST_AUGMENTATIONS),
        f"a whole number from 1 to {MOST_AUGMENTATIONS}",
    )
    copies = values.get("head_copies", 0)
    require(
        "head_copies",
        (copies == 0 and type(copies) is int) or _is_whole(copies, MOST_AUGMENTATIONS),
        f"a whole number from 0 to {MOST_AUGMENTATIONS}",
    )
    batch = values.get("batch_size")
    require("batch_size", batch is None or _is_whole(batch, MOST_STEPS), "a whole number or null")
    words = "batching optimizer augmentation init train_with loss mixed_precision trainable"
    for name in words.split():
        require(name, type(values.get(name)) is str, "a word")
    for name in ("statistics", "model", "head"):
        require(name, type(values.get(name)) in (str, type(None)), "a word or null")
    for name in ("backbones", "networks"):
        listed = values.get(name, ())
        require(
            name,
            isinstance(listed, (list, tuple)) and len(listed) <= MOST_NETWORKS,
            f"a list of at most {MOST_NETWORKS}",
        )
    for name in ("optimizer_args", "model_args"):
        require(name, is_plain_object(values.get(name)), "an object of plain values")
    check_arguments(values.get("model_args", {}))


def check_amounts(
    augmentation: str, augmentations_per_step: int, head_copies: int, steps: int
) -> None:
    """Check what a recipe with these settings would hold, before there are data or a network.

    Args:
        augmentation: see `Recipe`.
        augmentations_per_step: see `Recipe`.
        head_copies: see `Recipe`.
        steps: inner steps.

    Raises:
        ValueError: it is not possible, in the words of the run's settings.
    """
    augmentation_names(augmentation)
    for name, value, most in (
        ("augmentations_per_step", augmentations_per_step, MOST_AUGMENTATIONS),
        ("head_copies", head_copies, MOST_AUGMENTATIONS),
        ("inner_steps", steps, MOST_STEPS),
    ):
        if value > most:
            raise ValueError(f"`{name}` must be at most {most:,}, got {value:,}")


def _is_whole(value: Any, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


def _is_list_of_names(value: Any) -> bool:
    some = isinstance(value, (list, tuple)) and len(value) > 0
    return some and all(type(name) is str for name in value)
