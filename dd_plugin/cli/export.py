"""`dd-plugin export SET FOLDER`: a distilled set in the format of another tool."""

import argparse
import sys
import warnings

from dd_plugin.cli.errors import CommandError
from dd_plugin.cli.loading import add_loading_arguments, load_set


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `export`."""
    parser.description = (
        "Write a distilled set as an image folder (for torchvision, timm and datasets), or as the "
        "three files that DD-Ranking reads."
    )
    parser.add_argument("set", metavar="SET", help="a folder or an id on the Hub")
    parser.add_argument("folder", metavar="FOLDER", help="where to write")
    parser.add_argument(
        "--format",
        choices=["image_folder", "dd_ranking"],
        default="image_folder",
        help="image_folder: PNG files in a folder per class; dd_ranking: the files of DD-Ranking "
        "(default: image_folder)",
    )
    parser.add_argument(
        "--dataset", help="name that DD-Ranking has for the real data, such as CIFAR10"
    )
    add_loading_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Write the files.

    Raises:
        CommandError: the set cannot be loaded, does not fit the format, or cannot be written.
    """
    if args.dataset and args.format != "dd_ranking":
        raise CommandError("--dataset goes with --format dd_ranking only")
    try:
        distilled = load_set(args.set, args)
        if args.format == "dd_ranking":
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                distilled.export_dd_ranking(args.folder, dataset=args.dataset)
            for warning in caught:
                print(f"dd-plugin export: warning: {warning.message}", file=sys.stderr)
        else:
            distilled.export_image_folder(args.folder)
    except (OSError, ValueError) as error:
        raise CommandError(str(error)) from error
    print(f"{len(distilled)} images written to {args.folder}")
    return 0
