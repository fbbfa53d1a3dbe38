"""The settings of a run as options of a parser, one for each field, in groups.

Used by `distill`. Choices are not argparse's: a wrong value is refused by `DistillerConfig`, in one
line, as in Python and in YAML.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from dd_plugin.distiller.coercion import choices, switch
from dd_plugin.distiller.setting_descriptions import setting_defaults
from dd_plugin.distiller.settings import GROUPS, Settings

# Options that may stand several times, each with several values.
_COLLECTED = frozenset({"model"})


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Declare an option for every field of `DistillerConfig`; what is not typed has no value."""
    hints, defaults = get_type_hints(Settings), setting_defaults()
    for title, group in GROUPS.items():
        options = parser.add_argument_group(title)
        for field in fields(group):
            text = field.metadata["help"]
            if defaults[field.name]:
                text = f"{text} (default: {defaults[field.name]})"
            options.add_argument(
                *_spelled(field.name),
                default=argparse.SUPPRESS,
                help=text.replace("%", "%%"),
                **_values(field.name, hints[field.name]),
            )
            if field.default is True:
                options.add_argument(
                    *_spelled(f"no_{field.name}"),
                    dest=field.name,
                    action="store_false",
                    default=argparse.SUPPRESS,
                    help=f"The same as `--{field.name} false`.",
                )


def _spelled(name: str) -> list[str]:
    return list(dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")))


def _values(name: str, hint: Any) -> dict[str, Any]:
    """Return how argparse reads the values of a field of that type."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if name in _COLLECTED:
        return {"nargs": "+", "action": "extend"}
    if allowed := choices(hint):
        return {"type": str, "metavar": f"{{{','.join(allowed)}}}"}
    if bool in kinds:
        return {"type": string_to_bool, "nargs": "?", "const": True}
    if str in kinds:  # and dictionaries, as JSON
        return {"type": str}
    if list[str] in kinds:
        return {"type": str, "nargs": "+"}
    return {"type": int if int in kinds else float}


def string_to_bool(word: str) -> bool:
    """Return what a word such as ``yes`` or ``false`` says.

    Raises:
        ArgumentTypeError: it says neither.
    """
    try:
        return switch(word)
    except KeyError:
        raise argparse.ArgumentTypeError(f"must be true or false, got {word!r}") from None
