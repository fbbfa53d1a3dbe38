"""The options of every command: spelling, default, kind of value, choices."""

from __future__ import annotations

import argparse
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml

from dd_plugin import DistillerConfig
from dd_plugin.cli import _parser as command_parser
from dd_plugin.distiller.by_data import plain
from dd_plugin.distiller.setting_descriptions import setting_choices

FILE = Path(__file__).with_name("golden") / "flags.yaml"


def subparsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of every command."""
    bare = command_parser([])
    names = next(a.choices for a in bare._actions if isinstance(a, argparse._SubParsersAction))
    full = command_parser(list(names))
    commands: Any = next(a for a in full._actions if a.dest == "command").choices
    return dict(commands)


def _kind(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "switch"
    kind = "text" if action.type is None else getattr(action.type, "__name__", str(action.type))
    # `HfArgumentParser` makes functions for choices, of several names.
    return "text" if kind in ("str", "choice", "<lambda>", "make_choice") else kind


def _described(action: argparse.Action) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": _kind(action)}
    if action.option_strings:
        found["spelled"] = list(action.option_strings)
    if action.default not in (None, argparse.SUPPRESS, False):
        found["default"] = action.default
    if action.required:
        found["required"] = True
    if action.nargs not in (None, 0):
        found["takes"] = action.nargs
    if action.const is not None and action.nargs == "?":
        found["alone"] = action.const
    if action.choices is not None:
        found["choices"] = list(action.choices)
    return found


def choices() -> dict[str, list[str]]:
    """What a setting may be, from the type of its field."""
    return {name: list(values) for name, values in setting_choices().items()}


def settings() -> dict[str, dict[str, Any]]:
    """Every field of `DistillerConfig`, which is an option of `distill`: default and choices."""
    allowed, found = choices(), {}
    for field in fields(DistillerConfig):
        if not field.init:
            continue
        made = field.default_factory
        default = plain(field.default if made is MISSING else made())
        found[field.name] = {"default": default}
        if field.name in allowed:
            found[field.name]["choices"] = allowed[field.name]
    return found


def options() -> dict[str, dict[str, Any]]:
    """By command, then by name. Choices of `distill` are those of the settings."""
    found: dict[str, dict[str, Any]] = {}
    for command, parser in subparsers().items():
        actions = [a for a in parser._actions if a.dest not in ("help", "help_all")]
        found[command] = {action.dest: _described(action) for action in actions}
    for description in found["distill"].values():
        description.pop("choices", None)
    return found


def refusal(name: str, value: str) -> str:
    """What a setting of a value is refused with; empty where it is not."""
    setting: dict[str, Any] = {name: value}
    try:
        DistillerConfig(**setting)
    except ValueError as error:
        return str(error)
    return ""


def found() -> dict[str, Any]:
    return {"commands": options(), "settings": settings()}


def stored() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return content


def write() -> None:
    text = yaml.safe_dump(found(), sort_keys=False, width=98)
    FILE.write_text("# Written by `python -m tests.pins --write`.\n" + text, encoding="utf-8")
