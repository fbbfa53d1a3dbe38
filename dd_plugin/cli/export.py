"""`dd-plugin export SET FOLDER`: a distilled set, or a checkpoint of a run, in another form."""

import argparse
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from dd_plugin.cli.errors import CommandError
from dd_plugin.cli.loading import add_loading_arguments, load_set

if TYPE_CHECKING:
    from dd_plugin.hub import DistilledDataset

_FORMATS = ("set", "image_folder", "dd_ranking")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `export`."""
    parser.description = (
        "Write a distilled set as an image folder (for torchvision, timm and datasets), or as the "
        "three files that DD-Ranking reads. A checkpoint of a run becomes a distilled set."
    )
    parser.add_argument(
        "set",
        metavar="SET",
        help="a folder, an id on the Hub, or a checkpoint folder of a run",
    )
    parser.add_argument("folder", metavar="FOLDER", help="where to write")
    parser.add_argument(
        "--format",
        choices=_FORMATS,
        help="set: a distilled set with its recipe; image_folder: PNG files in a folder per class; "
        "dd_ranking: the files of DD-Ranking (default: set for a checkpoint, else image_folder)",
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
        images = _export(args)
    except (OSError, ValueError) as error:
        raise CommandError(str(error)) from error
    print(f"{images} images written to {args.folder}")
    return 0


def _export(args: argparse.Namespace) -> int:
    """Write the files, and return the number of images."""
    from dd_plugin.hub.in_checkpoint import export_checkpoint, is_checkpoint, open_checkpoint
    from dd_plugin.hub.limits import UNLIMITED, Limits

    source, limits = Path(args.set), UNLIMITED if args.no_limits else Limits()
    if not is_checkpoint(source):
        return _write(load_set(args.set, args), args.format or "image_folder", args)
    if args.format in (None, "set"):
        return export_checkpoint(source, Path(args.folder), limits)
    return _write(open_checkpoint(source, limits), args.format, args)


def _write(distilled: "DistilledDataset", form: str, args: argparse.Namespace) -> int:
    """Write a set in a format, and return the number of its images."""
    if form == "dd_ranking":
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            distilled.export_dd_ranking(args.folder, dataset=args.dataset)
        for warning in caught:
            print(f"dd-plugin export: warning: {warning.message}", file=sys.stderr)
    elif form == "set":
        distilled.save_pretrained(args.folder)
    else:
        distilled.export_image_folder(args.folder)
    return len(distilled)
