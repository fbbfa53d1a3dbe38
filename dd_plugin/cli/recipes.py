"""`dd-plugin recipes [NAME [FILE]]`: the recipes that come with the package, listed, shown, copied.

The files are inside the package. A copy is a settings file of `dd-plugin distill`.
"""

import argparse
from pathlib import Path

from dd_plugin.cli.errors import CommandError
from dd_plugin.cli.run_settings import RECIPE
from dd_plugin.recipes import recipe_names, recipe_summary, recipe_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `recipes`."""
    parser.description = (
        "List the recipes, show one, or copy one into a file to edit. A recipe holds the settings "
        "of a run. `dd-plugin distill recipe:NAME` runs it, and `dd-plugin distill FILE` its copy."
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="recipe to show (default: list)")
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help="new file, or a folder, for a copy of the recipe"
    )


def run(args: argparse.Namespace) -> int:
    """List, show or copy.

    Raises:
        CommandError: there is no such recipe, or the copy cannot be written.
    """
    if args.name is None:
        names = recipe_names()
        width = max(map(len, names))
        print("\n".join(f"{name:{width}}  {recipe_summary(name)}" for name in names))
        return 0
    name = args.name.removeprefix(RECIPE)
    try:
        text = recipe_text(name)
    except ValueError as error:
        raise CommandError(str(error)) from error
    if args.file is None:
        print(text, end="")
        return 0
    path = Path(args.file)
    path = path / f"{name}.yaml" if path.is_dir() else path
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise CommandError(f"{path} exists and is not replaced; choose another FILE") from None
    except OSError as error:
        raise CommandError(f"the copy could not be written: {error}") from error
    print(f"written to {path}; edit it and run `dd-plugin distill {path}`")
    return 0
