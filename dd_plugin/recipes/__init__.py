"""Settings of runs by name, one YAML file each: what `dd-plugin distill recipe:NAME` takes.

Beside the trainer, which reads them in `DistillerConfig.from_recipe`. Of published methods and of
the runs on the benchmark pages. A file begins with a comment whose first sentence says what it is.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["recipe_names", "recipe_settings", "recipe_summary", "recipe_text"]


def recipe_names() -> list[str]:
    """Return the names of all recipes, in alphabetical order."""
    files = _folder().iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def recipe_settings(name: str) -> dict[str, Any]:
    """Return the settings of a recipe, by the names of `DistillerConfig`'s fields.

    Raises:
        ValueError: there is no recipe of that name.
    """
    import yaml

    settings: dict[str, Any] = yaml.safe_load(recipe_text(name))
    return settings


def recipe_summary(name: str) -> str:
    """Return a sentence that says what a recipe is of.

    Raises:
        ValueError: there is no recipe of that name.
    """
    lines = []
    for line in recipe_text(name).splitlines():
        if not line.startswith("# ") or line.startswith("#  "):
            break
        lines.append(line.removeprefix("# "))
    return re.split(r"(?<=\.) (?=[A-Z])", " ".join(lines))[0]


def recipe_text(name: str) -> str:
    """Return the YAML file of a recipe.

    Raises:
        ValueError: there is no recipe of that name.
    """
    names = recipe_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(f"there is no recipe {name!r}; {hint or 'there are ' + ', '.join(names)}")
    return _folder().joinpath(f"{name}.yaml").read_text("utf-8")


def _folder() -> Traversable:
    from importlib import resources  # not at every start of the command

    return resources.files(__name__)
