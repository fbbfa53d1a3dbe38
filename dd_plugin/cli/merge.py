"""`dd-plugin merge SET SET --output FOLDER`: the classes and images of several sets in one."""

import argparse
import shlex

from dd_plugin.cli.errors import CommandError
from dd_plugin.cli.loading import add_loading_arguments, load_set
from dd_plugin.cli.run_settings import with_flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `merge`."""
    parser.description = (
        "Put distilled sets together into one that has all of their classes and images. The sets "
        "must have the same image size, normalization, form of labels and recipe; what differs is "
        "told. Images and labels stay, step sizes and BatchNorm statistics are averaged."
    )
    parser.add_argument(
        "set", metavar="SET", nargs="+", help="two or more: folders, or ids on the Hub"
    )
    parser.add_argument(
        "--output", metavar="FOLDER", required=True, help="where to write, new or empty"
    )
    parser.add_argument(
        "--same_classes",
        action="store_true",
        help="take classes of the same name for one class (default: refuse them)",
    )
    add_loading_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Write the merged set, and say what it has.

    Raises:
        CommandError: a set cannot be loaded, or the sets do not go together.
    """
    try:
        first, *others = (load_set(name, args) for name in args.set)
        merged = first.merge(*others, folder=args.output, same_classes=args.same_classes)
    except (OSError, ValueError) as error:
        raise CommandError(with_flags(_with_option(str(error)))) from error
    data = ["--dataset", "FOLDER", "--split", "test"]
    command = shlex.join(["dd-plugin", "evaluate", args.output, *data])
    print(
        f"{len(merged)} images of {len(merged.class_names)} classes written to {args.output}\n"
        f"test them with: {command}"
    )
    return 0


def _with_option(text: str) -> str:
    return text.replace("`same_classes`", "--same_classes").replace("`folder`", "--output")
