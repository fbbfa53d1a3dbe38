"""The settings of a run as options of a parser, one for each field, in groups.

Used by `distill`. Its `--help` shows the common ones, `--help-all` all of them. Choices are not
argparse's: a wrong value is refused by `DistillerConfig`, in one line, as in Python and in YAML.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from dd_plugin.cli.parser import Parser
from dd_plugin.distiller.baseline_names import AUTO
from dd_plugin.distiller.coercion import choices, switch
from dd_plugin.distiller.setting_descriptions import setting_defaults
from dd_plugin.distiller.settings import GROUPS, Settings
from dd_plugin.distiller.trainer_names import SETTINGS

# What `--help` shows. The pages and `--help-all` have all settings, in the same groups.
COMMON = (
    *("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "seed", "max_steps"),
    *("eval_steps", "final_eval_networks", "baselines"),
    *("dataset", "image_size"),
    *("model", "model_args", "trainable"),
    *("images_per_class", "parametrization", "soft_labels"),
    *("inner_steps", "inner_lr", "augmentation"),
    *("learning_rate", "real_batch_size"),
    *("storage", "compile", "mixed_precision"),
    *("push_to_hub", "hub_dataset_id"),
)

# Options that may stand several times, each with several values.
_COLLECTED = frozenset({"model"})

# What the switches do that turn something off.
_WITHOUT = {
    "baselines": "Compare with no real images at the end.",
    "verify": "Do not check the first gradient of the run.",
}


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Declare an option for every field of `DistillerConfig`; what is not typed has no value."""
    hints, defaults = get_type_hints(Settings), setting_defaults()
    rare: list[tuple[argparse.Action, str]] = []
    for title, group in GROUPS.items():
        options = parser.add_argument_group(title)
        for field in fields(group):
            text = field.metadata["help"]
            if defaults[field.name]:
                text = f"{text} (default: {defaults[field.name]})"
            values = _values(field.name, hints[field.name])
            added = [(options.add_argument(f"--{field.name}", **_unset(), **values), text)]
            if field.name in _WITHOUT:
                off = options.add_argument(
                    f"--no_{field.name}", dest=field.name, action="store_false", **_unset()
                )
                added.append((off, _WITHOUT[field.name]))
            for option, words in added:
                option.help = words.replace("%", "%%")
            if field.name not in COMMON:
                rare += [(option, option.help or "") for option, _ in added]
    for option, _ in rare:
        option.help = argparse.SUPPRESS
    parser.add_argument("--help_all", action=_HelpAll, nargs=0, rare=rare, **_unset())
    if isinstance(parser, Parser):
        parser.more_options += [name for option, _ in rare for name in option.option_strings]
        parser.answers = SETTINGS


class _HelpAll(argparse.Action):
    """Show the help with the options that `--help` leaves out, and exit."""

    def __init__(
        self, *args: Any, rare: Sequence[tuple[argparse.Action, str]], **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.help = f"show {len(rare)} more options and exit"
        self._rare = rare

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        for option, text in self._rare:
            option.help = text
        parser.print_help()
        parser.exit()


class _Baselines(argparse.Action):
    """Store names; without one the option is a switch."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *values: Any
    ) -> None:
        setattr(namespace, self.dest, values[0] or [AUTO])


def _unset() -> dict[str, Any]:
    return {"default": argparse.SUPPRESS}


def _values(name: str, hint: Any) -> dict[str, Any]:
    """Return how argparse reads the values of a field of that type, and what help calls them."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if name in _COLLECTED:
        return {"nargs": "+", "action": "extend"}
    if name == "baselines":
        return {"nargs": "*", "action": _Baselines, "metavar": "NAME"}
    if allowed := choices(hint):
        return {"type": str, "metavar": f"{{{','.join(allowed)}}}"}
    if bool in kinds:
        return {"type": string_to_bool, "nargs": "?", "const": True, "metavar": "true|false"}
    if dict[str, Any] in kinds:
        return {"type": str, "metavar": "JSON"}
    if str in kinds:
        return {"type": str, "metavar": "FOLDER" if name.endswith("_dir") else "TEXT"}
    if list[str] in kinds:
        return {"type": str, "nargs": "+", "metavar": "NAME"}
    if int in kinds:
        return {"type": int, "metavar": "N"}
    return {"type": float, "metavar": "X"}


def string_to_bool(word: str) -> bool:
    """Return what a word such as ``yes`` or ``false`` says.

    Raises:
        ArgumentTypeError: it says neither.
    """
    try:
        return switch(word)
    except KeyError:
        raise argparse.ArgumentTypeError(f"must be true or false, got {word!r}") from None
