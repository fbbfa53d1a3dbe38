"""Every public name is on a page of the reference, and every page names what exists."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import dd_plugin
from dd_plugin.cli import _parser as command_parser

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "reference"
PARTS = ("bn", "bilevel", "data", "distiller", "evaluation", "hub", "models", "convnet")
DIRECTIVE = re.compile(r"^::: (\S+)$", re.MULTILINE)


def public_names(part):
    """`__all__`, or what a module without one defines itself."""
    module = importlib.import_module(f"dd_plugin.{part}")
    if hasattr(module, "__all__"):
        return set(module.__all__)
    own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return {n for n, v in own.items() if getattr(v, "__module__", None) == module.__name__}


@pytest.mark.parametrize("part", PARTS)
def test_every_public_name_has_its_place(part):
    named = DIRECTIVE.findall((PAGES / f"{part}.md").read_text(encoding="utf-8"))
    assert len(named) == len(set(named))
    # A function whose module has its name is named by its own module.
    assert public_names(part) <= {name.rpartition(".")[2] for name in named}
    for name in named:
        home, _, last = name.rpartition(".")
        assert not inspect.ismodule(getattr(importlib.import_module(home), last))
        assert home.startswith(f"dd_plugin.{part}")


def test_the_names_of_the_package_are_listed_with_their_homes():
    text = (PAGES / "index.md").read_text(encoding="utf-8")
    for name in dd_plugin.__all__:
        home = dd_plugin._HOMES.get(name)
        assert (f"[`{name}`][{home}.{name}]" if home else f"`{name}`") in text


def test_every_command_is_on_its_page():
    text = (PAGES / "command-line.md").read_text(encoding="utf-8")
    names = re.findall(r"^    (\w+)  ", command_parser([]).format_help(), re.MULTILINE)
    assert {"distill", "merge", "env"} <= set(names)
    for name in names:
        assert f"\n## {name}\n" in text
        assert name == "distill" or f"{{{{ help {name} }}}}" in text


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    cards = set((ROOT / "docs" / "sets").rglob("*.md"))
    for page in set((ROOT / "docs").rglob("*.md")) - cards:
        assert f" {page.relative_to(ROOT / 'docs').as_posix()}\n" in navigation
