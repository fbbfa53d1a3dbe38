"""`dd-plugin evaluate SET...`: accuracies of networks trained on distilled sets, as a table.

Loads each set from a folder or the Hub, trains fresh networks on it, on as many random real images
and on all of them, and tests them in eval mode. The table is printed, and stored in the record and
the card of each set that is a folder here, and on request in a JSON file. It takes long, so
`evaluation_checks` looks for mistakes first, and each row is stored at once.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dd_plugin.choices import EVALUATED_NETWORKS
from dd_plugin.cli.errors import CommandError
from dd_plugin.cli.evaluation_checks import (
    check_counts,
    check_networks,
    check_output,
    choose_device,
    choose_models,
    load_backbones,
)
from dd_plugin.cli.evaluation_words import eight_bit_differences, row_line
from dd_plugin.cli.loading import add_loading_arguments, load_set
from dd_plugin.cli.noted_images import note_images, noted_images
from dd_plugin.distiller.baseline_names import NAMES, baseline_names, chosen_baselines

if TYPE_CHECKING:
    from dd_plugin.data import RealData
    from dd_plugin.hub import DistilledDataset
    from dd_plugin.hub.record import Evaluation, Record
    from dd_plugin.networks import Backbone


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `evaluate`."""
    parser.description = (
        "Train fresh networks on distilled sets and test them in eval mode, beside networks "
        "trained on as many random real images and on the full data."
    )
    parser.add_argument("sets", nargs="+", metavar="SET", help="a folder or an id on the Hub")
    parser.add_argument(
        "--model",
        action="append",
        metavar="MODEL",
        help="network to train: timm/NAME, a Hub id or a folder; may be repeated (default: the "
        "set's own networks)",
    )
    parser.add_argument(
        "--dataset",
        help="real images (default: those that the set's record names, or the folder that the run "
        "was given on this machine)",
    )
    parser.add_argument(
        "--split", help="split to test on (default: that of the set's record, or test)"
    )
    parser.add_argument(
        "--train_split", help="split to train the baselines on (default: the distilled one)"
    )
    parser.add_argument(
        "--networks",
        type=int,
        default=EVALUATED_NETWORKS,
        help=f"fresh networks per row (default: {EVALUATED_NETWORKS})",
    )
    parser.add_argument(
        "--seed", type=int, help="seed of the networks (default: the seeds in the set's record)"
    )
    parser.add_argument(
        "--protocol",
        choices=["auto", "recipe", "standard"],
        default="auto",
        help="how networks are trained on the set. recipe: by the set's recipe; standard: as on "
        "real images; auto: by the recipe for the networks that the set was made for, and as on "
        "real images for others (default: auto)",
    )
    _add_comparison_arguments(parser)
    add_loading_arguments(parser)
    parser.add_argument("--device", help="where to train (default: cuda if there is one, or cpu)")
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="write the rows as JSON too. Rows that the file already has stay, unless they are "
        "measured again",
    )


def _add_comparison_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that choose what stands beside the set."""
    parser.add_argument(
        "--no_baselines", action="store_true", help="train on the distilled images only"
    )
    parser.add_argument(
        "--baselines",
        nargs="+",
        metavar="NAME",
        help="what stands beside the set, after the names of sets: auto, none, all, or some of "
        f"{', '.join(NAMES)} (default: auto: random_real and full_data, for heads centroid, "
        "herding and k_center too). `distill --help` says what they are",
    )
    parser.add_argument(
        "--no_full_data",
        action="store_true",
        help="train no networks on all real images, by far the slowest baseline",
    )


@dataclass
class _Candidate:
    """A set that is evaluated, and the networks that are trained on it.

    Attributes:
        name: a folder or an id on the Hub, as it was typed.
        distilled: the set.
        models: names of the networks.
        backbones: the frozen ones among them by name, loaded.
    """

    name: str
    distilled: DistilledDataset
    models: list[str]
    backbones: dict[str, Backbone]


def run(args: argparse.Namespace) -> int:
    """Evaluate the sets and print a table of each; and of all, if there are several.

    Raises:
        CommandError: a set, a network or the real images cannot be loaded, or they do not fit
            together.
    """
    from dd_plugin.data import DataError
    from dd_plugin.hub.comparison import rows_table
    from dd_plugin.models import ModelLoadError

    args.baselines = _baselines(args)
    if args.networks < 1:
        raise CommandError(f"--networks must be at least 1, got {args.networks}")
    if args.output:
        check_output(args.output)
    device = choose_device(args.device)
    rows: list[Evaluation] = []
    try:
        for candidate in _candidates(args):
            of_set = _evaluate(candidate, args, device)
            rows += of_set
            print(rows_table(of_set))
            for line in eight_bit_differences(candidate.name, of_set):
                print(line)
    except (DataError, ModelLoadError, ImportError, OSError, ValueError) as error:
        raise CommandError(str(error)) from error
    if len(args.sets) > 1:
        print(rows_table(rows))
    return 0


def _baselines(args: argparse.Namespace) -> list[str]:
    """Return the names of the baselines; none with ``--no_baselines``.

    Raises:
        CommandError: there is no such name, or both options are given.
    """
    if args.no_baselines and args.baselines:
        raise CommandError("--no_baselines and --baselines exclude each other; give one of them")
    try:
        return baseline_names(False if args.no_baselines else args.baselines)
    except ValueError as error:
        raise CommandError(str(error).replace("`baselines`", "--baselines")) from error


def _candidates(args: argparse.Namespace) -> list[_Candidate]:
    """Load all sets, then check the networks of each."""
    sets = [load_set(name, args) for name in args.sets]
    candidates = []
    for name, distilled in zip(args.sets, sets, strict=True):
        models = choose_models(name, distilled, args.model)
        backbones: dict[str, Backbone] = {}
        if distilled.recipe.trainable == "head":
            backbones = load_backbones(name, distilled, models, recorded=not args.model)
        else:
            check_networks(name, distilled, models, args.protocol)
        candidates.append(_Candidate(name, distilled, models, backbones))
    return candidates


def _evaluate(candidate: _Candidate, args: argparse.Namespace, device: str) -> list[Evaluation]:
    """Return the rows of a set, each of which is stored as soon as it is measured."""
    from dd_plugin.evaluation.kept_baselines import NOTHING_KEPT, KeptBaselines
    from dd_plugin.evaluation.training_images import TrainingImages
    from dd_plugin.hub.comparison import Request, compare
    from dd_plugin.hub.record import Evaluation, Record

    distilled, folder = candidate.distilled, Path(candidate.name)
    record = Record.from_json(distilled.record)
    dataset = args.dataset
    if dataset is None and record.protocol.dataset is None:
        dataset = noted_images(candidate.name, "test")
    test = distilled.real_data(dataset, args.split, device=device)
    if args.dataset and record.protocol.dataset is None:
        note_images(candidate.name, args.dataset)
    about = Evaluation(
        set=candidate.name,
        dataset=test.public_name if args.dataset else record.protocol.dataset,
        split=args.split or record.protocol.tested_on,
    )
    names = chosen_baselines(args.baselines)
    request = Request(
        models=candidate.models,
        test=test,
        train=_baseline_images(candidate, record, args, device) if names != [] else None,
        kinds=None if names is None else [*map(TrainingImages.baseline, names)],
        networks=args.networks,
        seed=args.seed,
        protocol=args.protocol,
        full_data=not args.no_full_data,
        device=device,
        about=about,
        backbones=candidate.backbones,
        kept=KeptBaselines.in_folder(folder) if folder.is_dir() else NOTHING_KEPT,
    )
    return compare(distilled, request, lambda row: _store(row, candidate.name, record, args.output))


def _baseline_images(
    candidate: _Candidate, record: Record, args: argparse.Namespace, device: str
) -> RealData | None:
    """The real images that baselines are trained on; without them there are no baselines."""
    from dd_plugin.data import DataError

    distilled = candidate.distilled
    split = args.train_split or record.source.train_split or "train"
    try:
        dataset = args.dataset or record.source.dataset or noted_images(candidate.name, "train")
        images = distilled.real_data(dataset, split, device=device)
        check_counts(record, images, args.baselines)
        return images
    except (CommandError, DataError, ValueError) as error:
        print(f"dd-plugin evaluate: no baselines: {error}", file=sys.stderr)
        return None


def _store(row: Evaluation, name: str, record: Record, output: Path | None) -> None:
    """Add a row to the set's folder and to the file of results, and print it on stderr."""
    from dd_plugin.hub.ledger import add_to_file, add_to_record

    if Path(name).is_dir():
        # Not the path of a network's folder: a record is made to be published.
        kept = replace(row, set=None)
        if row.model and Path(row.model).exists():
            kept = replace(kept, model=Path(row.model).resolve().name)
        try:
            add_to_record(Path(name), kept, record.files)
        except (OSError, ValueError) as error:  # somebody else's folder, or another set
            print(f"dd-plugin evaluate: warning: not written to {name}: {error}", file=sys.stderr)
    if output:
        add_to_file(output, row)
    print(row_line(row), file=sys.stderr, flush=True)
