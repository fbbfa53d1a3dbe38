"""`dd-plugin export SET FOLDER`: a distilled set in the form of another tool."""

import argparse
import sys
import warnings
from dataclasses import asdict

from dd_plugin.cli.errors import CommandError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `export`."""
    parser.description = (
        "Write a distilled set as an image folder (for torchvision, timm and datasets), or as the "
        "three files that DD-Ranking is given."
    )
    parser.add_argument("set", metavar="SET", help="a folder or an id on the Hub")
    parser.add_argument("folder", metavar="FOLDER", help="where to")
    parser.add_argument("--format", choices=["image_folder", "dd_ranking"], default="image_folder")
    parser.add_argument(
        "--dataset", help="for dd_ranking: its name of the real data, such as CIFAR10"
    )
    parser.add_argument("--revision", help="of a set on the Hub")
    parser.add_argument("--token", help="for a private set (default: that of hf auth login)")
    parser.add_argument(
        "--no_limits",
        action="store_true",
        help="read a set of any size; by default it may not take gigabytes",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the files.

    Raises:
        CommandError: The set cannot be had or does not fit the form, or the folder not be written.
    """
    from dd_plugin.hub import DistilledDataset
    from dd_plugin.hub.limits import UNLIMITED

    if args.dataset and args.format != "dd_ranking":
        raise CommandError("--dataset goes with --format dd_ranking only")
    try:
        distilled = DistilledDataset.from_pretrained(
            args.set,
            revision=args.revision,
            token=args.token,
            **(asdict(UNLIMITED) if args.no_limits else {}),
        )
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
