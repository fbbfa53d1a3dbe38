"""Puts the command line into the site while it is built, from the code itself.

A line `{{ help NAME }}` of a page becomes what `dd-plugin NAME --help` prints, and `{{ settings }}`
tables of every field of `DistillerConfig`: flag, default, meaning, under the titles of their
groups. `{{ recipes }}` becomes a table of the recipes. So none can be out of
date.
"""

import argparse
import dataclasses
import re
from importlib import import_module
from typing import Any

from mkdocs.exceptions import PluginError

WIDTH = 88


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Replaces the three kinds of line (an event of MkDocs)."""

    def made(match: re.Match[str]) -> str:
        words = match[1].split()
        if words == ["settings"]:
            return settings()
        if words == ["recipes"]:
            return recipes()
        if len(words) == 2 and words[0] == "help":
            return f"```text\n{help_of(words[1])}\n```"
        raise PluginError(f"{page.file.src_uri}: cannot replace {match[0]!r}")

    return re.sub(r"^\{\{ (.*?) \}\}$", made, markdown, flags=re.MULTILINE)


def help_of(command: str) -> str:
    """What `dd-plugin COMMAND --help` prints, without `-h` and `--debug`, which all have."""
    parser = argparse.ArgumentParser(
        prog=f"dd-plugin {command}",
        add_help=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=WIDTH),
    )
    import_module(f"dd_plugin.cli.{command}").add_arguments(parser)
    return parser.format_help().strip()


def settings() -> str:
    """Tables of the settings, one per group."""
    from dd_plugin.distiller.setting_descriptions import setting_choices, setting_defaults
    from dd_plugin.distiller.settings import GROUPS

    choices, defaults = setting_choices(), setting_defaults()
    parts = []
    for title, group in GROUPS.items():
        parts.append(f"\n### {title}\n\n| flag | default | meaning |\n|---|---|---|")
        for field in dataclasses.fields(group):
            allowed = ", ".join(f"`{choice}`" for choice in choices.get(field.name, ()))
            text = field.metadata["help"] + (f" ({allowed})" if allowed else "")
            text = text.replace("|", "\\|")
            default = f"`{defaults[field.name]}`" if defaults[field.name] else ""
            parts.append(f"| `--{field.name}` | {default} | {text} |")
    return "\n".join(parts)


def recipes() -> str:
    """A table of the recipes."""
    from dd_plugin.recipes import recipe_names, recipe_summary

    rows = [f"| `{name}` | {recipe_summary(name)} |" for name in recipe_names()]
    return "\n".join(["| recipe | what it is |", "|---|---|", *rows])
