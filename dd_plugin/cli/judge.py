"""`dd-plugin judge SET`: scores of a set by DD-Ranking, a judge from outside.

Runs the package `ddranking` on the set and prints its scores. They go into the record and onto the
card of a set that is a folder here.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dd_plugin.cli.errors import CommandError
from dd_plugin.cli.evaluation_checks import choose_device
from dd_plugin.cli.loading import add_loading_arguments, load_set

if TYPE_CHECKING:
    from dd_plugin.hub.record import Judgement, Record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `judge`."""
    parser.description = (
        "Have a distilled set judged by DD-Ranking: the package trains its own networks on the "
        "images with hard labels, beside random real images and all of them. Its scores go onto "
        "the card of a set that is a folder here."
    )
    parser.add_argument("set", metavar="SET", help="a folder or an id on the Hub")
    parser.add_argument(
        "--dataset", required=True, help="name that DD-Ranking has for the real data: CIFAR10, ..."
    )
    parser.add_argument(
        "--real_data",
        required=True,
        metavar="FOLDER",
        type=Path,
        help="where DD-Ranking finds the real data; it downloads CIFAR to there if it is missing",
    )
    parser.add_argument(
        "--model",
        default="ConvNet-3",
        help="DD-Ranking's name of the network: ConvNet-3, ResNet-18-BN, ... (default: ConvNet-3)",
    )
    parser.add_argument(
        "--runs", type=int, default=5, help="how often everything is trained (default: 5)"
    )
    parser.add_argument(
        "--epochs", type=int, default=300, help="epochs of each training (default: 300)"
    )
    parser.add_argument(
        "--full_data_accuracy",
        type=float,
        metavar="PERCENT",
        help="accuracy of the network on all real images, if it is known (default: DD-Ranking "
        "trains on them, which takes hours on a GPU and days without)",
    )
    parser.add_argument("--device", help="where to train (default: cuda if there is one, or cpu)")
    add_loading_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Judge the set, print its scores and store them.

    Raises:
        CommandError: the set or the judge cannot be loaded, or they do not fit together.
    """
    from dd_plugin.hub.judging import Hearing, judged
    from dd_plugin.hub.record import Record

    distilled = load_set(args.set, args)
    hearing = Hearing(
        dataset=args.dataset,
        real_data=args.real_data,
        model=args.model,
        runs=args.runs,
        epochs=args.epochs,
        full_data=args.full_data_accuracy,
        device=choose_device(args.device),
    )
    try:
        judgement = judged(distilled.synthetic("exact"), hearing)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise CommandError(str(error)) from error
    for line in judgement_lines(judgement):
        print(line)
    _store(judgement, args.set, Record.from_json(distilled.record))
    return 0


def judgement_lines(judgement: "Judgement") -> list[str]:
    """Return the scores, one in each line."""
    from dd_plugin.hub.record.judgement import in_points, in_share

    return [
        f"hard label recovery: {in_points(judgement.hard_label_recovery)} (smaller is better)",
        f"improvement over random images: {in_points(judgement.improvement_over_random)}",
        f"label-robust score: {in_share(judgement.label_robust)}",
        f"improvement where both are augmented: {in_points(judgement.augmented)}",
        f"improvement without augmentation: {in_points(judgement.plain)}",
        f"augmentation-robust score: {in_share(judgement.augmentation_robust)}",
    ]


def _store(judgement: "Judgement", name: str, record: "Record") -> None:
    """Put the scores into the record and onto the card of a folder."""
    from dd_plugin.hub.ledger import add_judgement

    if not Path(name).is_dir():
        return
    try:
        add_judgement(Path(name), judgement, record.files)
    except (OSError, ValueError) as error:  # somebody else's folder, or another set
        print(f"dd-plugin judge: warning: not written to {name}: {error}", file=sys.stderr)
