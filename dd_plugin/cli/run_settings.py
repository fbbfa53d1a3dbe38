"""The settings of `dd-plugin distill`: from a YAML file or a recipe, and from options.

Used by `distill`. Options override the file or the recipe. A message about a setting that Python
users get is given the spelling of the command line here.
"""

import difflib
import re
import sys
import warnings
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dd_plugin.cli.errors import CommandError, tell
from dd_plugin.recipes import recipe_names, recipe_summary

if TYPE_CHECKING:
    from dd_plugin.distiller import DistillerConfig

RECIPE = "recipe:"


def recipe_of(config: str | None) -> str | None:
    """Return the name behind `recipe:`, or None for a path."""
    if config is None or not config.startswith(RECIPE):
        return None
    return config.removeprefix(RECIPE)


def list_recipes(unknown: str) -> None:
    """List the recipes, where a name is missing or wrong.

    Args:
        unknown: the name, which may be empty.

    Raises:
        CommandError: there is a name, but no such recipe.
    """
    names = recipe_names()
    width = max(map(len, names))
    lines = [f"{RECIPE}{name:{width}}  {recipe_summary(name)}" for name in names]
    if not unknown:
        print("\n".join(lines))
        return
    close = difflib.get_close_matches(unknown, names, n=3)
    if close:
        hint = f"did you mean {', '.join(f'{RECIPE}{name}' for name in close)}?"
    else:
        tell("\n".join(lines))
        hint = "the recipes are listed above"
    raise CommandError(f"there is no recipe {unknown!r}; {hint}")


def make_config(recipe: str | None, values: dict[str, Any]) -> "DistillerConfig":
    """Make the configuration of a run, with its warnings as lines on stderr.

    Args:
        recipe: the name of a recipe, or None.
        values: settings that override the recipe or the defaults.

    Raises:
        ValueError: a value is not possible, or two do not go together.
    """
    from dd_plugin.distiller import DistillerConfig

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if recipe is None:
            config = DistillerConfig(**values)
        else:
            config = DistillerConfig.from_recipe(recipe, **values)
    for warning in caught:
        print(f"dd-plugin distill: warning: {warning.message}", file=sys.stderr)
    if not config.eval_steps and "eval_networks" in values:
        # In Python it is the default of `Distiller.evaluate`.
        print(
            f"dd-plugin distill: warning: `eval_networks` = {config.eval_networks} has no effect "
            "with `eval_steps` = 0; the table at the end is of `final_eval_networks`",
            file=sys.stderr,
        )
    return config


def settings_from_yaml(path: str | None) -> dict[str, Any]:
    """Return the settings in a YAML file; none without a path.

    Raises:
        CommandError: the file cannot be read, or has other settings than there are.
    """
    if path is None:
        return {}
    import yaml

    from dd_plugin.distiller.trainer_names import SETTINGS

    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} cannot be read as YAML: {error}") from error
    except yaml.YAMLError as error:
        # Its own text quotes the line, which may hold a token.
        place = getattr(error, "problem_mark", None)
        where = f", line {place.line + 1}" if place else ""
        raise CommandError(
            f"{path}{where} cannot be read as YAML: {getattr(error, 'problem', None) or 'invalid'}"
        ) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise CommandError(f"{path} must hold `option: value` lines, got {type(content).__name__}")
    known = setting_names()
    unknown = sorted(set(map(str, content)) - known)
    if unknown:
        answers = {name: SETTINGS[name].replace('"', "") for name in unknown if name in SETTINGS}
        misspelled = [name for name in unknown if name not in answers]
        close = [m for name in misspelled for m in difflib.get_close_matches(name, known, n=1)]
        hint = f"; did you mean {', '.join(map(repr, close))}?" if close else ""
        hint += "".join(f"; for {name!r}: {answer}" for name, answer in answers.items())
        raise CommandError(f"{path} has unknown options {unknown}{hint}")
    return {str(k): v for k, v in content.items()}


def with_flags(text: str) -> str:
    """Return a text with settings spelled as options of the command."""
    names = setting_names()

    def flag(match: re.Match[str]) -> str:
        name, value = match["name"], match["value"]
        if name not in names:
            return match[0]
        return f"--{name}" if value is None else f"--{name} {value}"

    return re.sub(r"`(?P<name>\w+)(?:=(?P<value>\w+))?`", flag, text)


def setting_names() -> set[str]:
    """Return the names of all settings of a run."""
    from dd_plugin.distiller.settings import Settings

    return {f.name for f in fields(Settings)}
