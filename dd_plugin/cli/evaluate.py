"""`dd-plugin evaluate SET...`: what distilled sets teach to several networks, as a table.

Loads each set from a folder or the Hub, trains fresh networks on it, on as many random real images
and on all of them, tests them in eval mode, prints the table and stores it: in the set's own record
and card where that is a folder here, and in a JSON file on request. This takes long, so whatever
can be found out before is, and each row is stored at once, beside those that others have stored.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dd_plugin.cli.errors import CommandError
from dd_plugin.text import first_line

if TYPE_CHECKING:
    from dd_plugin.hub.record import Evaluation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `evaluate`."""
    parser.description = (
        "Train fresh networks on distilled sets and test them in eval mode, beside networks "
        "trained on as many random real images and on the full data."
    )
    parser.add_argument("sets", nargs="+", metavar="SET", help="a folder or an id on the Hub")
    parser.add_argument(
        "--model",
        action="append",
        metavar="MODEL",
        help="timm/NAME, a Hub id or a folder; may be repeated (default: the set's own networks)",
    )
    parser.add_argument(
        "--dataset", help="real images (default: those that the set's record names)"
    )
    parser.add_argument("--split", help="to test on (default: the one of the record, or test)")
    parser.add_argument(
        "--train_split", help="to train the baselines on (default: the one that was distilled)"
    )
    parser.add_argument(
        "--networks", type=int, default=5, help="fresh networks per row (default: 5)"
    )
    parser.add_argument("--seed", type=int, help="of the networks (default: those of the record)")
    parser.add_argument(
        "--protocol",
        choices=["auto", "recipe", "standard"],
        default="auto",
        help="train by the set's recipe, or as on real images; auto: by the recipe for the network "
        "that it was made for, else as on real images",
    )
    parser.add_argument("--no_baselines", action="store_true", help="the distilled images only")
    parser.add_argument(
        "--no_full_data",
        action="store_true",
        help="without networks trained on all real images, the slowest by far",
    )
    parser.add_argument("--revision", help="of sets on the Hub")
    parser.add_argument("--token", help="for private sets (default: the one of hf auth login)")
    parser.add_argument(
        "--no_limits",
        action="store_true",
        help="read sets and make networks of any size; by default a set may not take gigabytes",
    )
    parser.add_argument("--device", help="default: cuda if there is one, or else cpu")
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="write the rows as JSON, too; into those that the file has, of which only what is "
        "measured again is replaced",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluates.

    Raises:
        CommandError: A set, model or data set cannot be had, or they do not fit together.
    """
    from dd_plugin.data import DataError
    from dd_plugin.hub.comparison import rows_table
    from dd_plugin.hub.dataset import DistilledDataset
    from dd_plugin.hub.limits import UNLIMITED
    from dd_plugin.models import ModelLoadError

    if args.networks < 1:
        raise CommandError(f"--networks must be at least 1, got {args.networks}")
    if args.output:
        _check_output(args.output)
    device = _checked_device(args.device)
    try:
        opened = [
            DistilledDataset.from_pretrained(
                name,
                revision=args.revision,
                token=args.token,
                **(asdict(UNLIMITED) if args.no_limits else {}),
            )
            for name in args.sets
        ]
        models = [
            _checked_models(name, distilled, args)
            for name, distilled in zip(args.sets, opened, strict=True)
        ]
        rows: list[Evaluation] = []
        for name, distilled, (chosen, loaded) in zip(args.sets, opened, models, strict=True):
            own = _rows(name, distilled, chosen, loaded, args, device)
            rows += own
            print(rows_table(own))
            _print_loss(name, own)
    except (DataError, ModelLoadError, ImportError, OSError, ValueError) as error:
        raise CommandError(str(error)) from error
    if len(args.sets) > 1:
        print(rows_table(rows))
    return 0


def _check_output(output: Path) -> None:
    """See that rows can be added to a file of results."""
    from dd_plugin.hub.ledger import rows_in

    if output.is_dir():
        raise CommandError(f"--output must be a file, got the folder {output}; add a name")
    if not output.parent.is_dir():
        raise CommandError(
            f"--output must be in a folder that is there, got {output}; make {output.parent} first"
        )
    if not os.access(output if output.exists() else output.parent, os.W_OK):
        raise CommandError(f"--output must be writable, got {output}; choose another file")
    try:
        rows_in(output)
    except ValueError as error:
        raise CommandError(
            f"--output must be a new file or one of an evaluation, got {output}, which holds "
            "something else; choose another file"
        ) from error


def _checked_device(given: str | None) -> str:
    import torch

    device = given or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.ones(1, device=device).item()
    # Without support for the device torch has assertions and errors of several kinds.
    except (AssertionError, RuntimeError, ValueError, TypeError, ImportError) as error:
        raise CommandError(
            f"--device must be one that works here, got {device}: {first_line(error)}; "
            "use --device cpu"
        ) from error
    return device


def _checked_models(
    name: str, distilled: Any, args: argparse.Namespace
) -> tuple[list[str], dict[str, Any]]:
    """The models to train on a set, each of which has taken two of its images.

    Returns:
        Their names, and by these the frozen networks, which are loaded.
    """
    from dd_plugin.distiller.network_checks import check_model, check_outputs
    from dd_plugin.models import ModelLoadError
    from dd_plugin.seeds import untouched_generators

    recipe = distilled.recipe
    for_heads = recipe.trainable == "head"
    if for_heads:
        own = [backbone.model for backbone in recipe.backbones if backbone.model]
    else:
        labelled = zip(recipe.architectures, recipe.network_labels, strict=True)
        own = [label for network, label in labelled if network.model]
    models = list(dict.fromkeys(args.model or own))
    if not models:
        raise CommandError(
            f"{name} was distilled for a network without a name; say which to train with --model, "
            "and with --protocol recipe if it is the network that the set was made for"
        )
    if for_heads:
        return models, _loaded_backbones(name, distilled, models, recorded=not args.model)
    images, _ = distilled.prepare(distilled.images[[0, -1]], distilled.labels[[0, -1]], 0)
    for model in models:
        try:
            with untouched_generators():
                network = distilled.new_network(model, protocol=args.protocol).to(images.dtype)
                check_model(network)
                check_outputs(network, images, distilled.recipe.num_classes)
        except (ModelLoadError, ImportError, OSError):
            raise
        # Some networks refuse a size of images already when they are made.
        except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).rstrip(".") or type(error).__name__
            raise CommandError(
                f"{model} cannot be trained on {name}: {reason}; leave this --model out (nothing "
                "has been trained yet)"
            ) from error
    return models, {}


def _loaded_backbones(
    name: str, distilled: Any, models: list[str], *, recorded: bool
) -> dict[str, Any]:
    """Load each frozen network once, with its weights, before the features of any are computed."""
    from dd_plugin.models import ModelLoadError
    from dd_plugin.networks.backbones import BackboneError, check_recorded_backbone

    loaded = {}
    for model in models:
        if recorded:
            check_recorded_backbone(model)
        try:
            loaded[model] = distilled.backbone(model)
        except (BackboneError, ModelLoadError) as error:
            raise CommandError(
                f"{model} cannot be used for {name}: {str(error).rstrip('.')}; mend that, or give "
                "other networks with --model (nothing has been trained yet)"
            ) from error
    return loaded


def _rows(
    name: str,
    distilled: Any,
    models: list[str],
    backbones: dict[str, Any],
    args: argparse.Namespace,
    device: str,
) -> list[Evaluation]:
    """The rows of a set, which are written as they come."""
    from dd_plugin.data import DataError
    from dd_plugin.hub.comparison import Request, compare
    from dd_plugin.hub.ledger import add_to_file, add_to_record
    from dd_plugin.hub.record import Evaluation, Record

    record = Record.from_json(distilled.record)
    test = distilled.real_data(args.dataset, args.split, device=device)
    train = None
    if not args.no_baselines:
        dataset = args.dataset or record.source.dataset
        split = args.train_split or record.source.train_split or "train"
        try:
            train = distilled.real_data(dataset, split, device=device)
        except (DataError, ValueError) as error:
            print(f"dd-plugin evaluate: no baselines: {error}", file=sys.stderr)
    about = Evaluation(
        set=name,
        dataset=test.public_name if args.dataset else record.protocol.dataset,
        split=args.split or record.protocol.split or "test",
    )

    def tell(row: Evaluation) -> None:
        # Each row is written at once: a long comparison may be cut off.
        if Path(name).is_dir():
            # Not the path of a network's folder: a record is made to be published.
            kept = replace(row, set=None)
            if row.model and Path(row.model).exists():
                kept = replace(kept, model=Path(row.model).resolve().name)
            try:
                add_to_record(Path(name), kept, record.files)
            except (OSError, ValueError) as error:  # somebody else's folder, or another set
                print(
                    f"dd-plugin evaluate: warning: not written to {name}: {error}", file=sys.stderr
                )
        if args.output:
            add_to_file(args.output, row)
        text = f"{row.model}, {row.trained_on}: {100 * row.scores.mean:.1f} %"
        print(text, file=sys.stderr, flush=True)

    request = Request(
        models=models,
        test=test,
        train=train,
        networks=args.networks,
        seed=args.seed,
        protocol=args.protocol,
        full_data=not args.no_full_data,
        device=device,
        about=about,
        backbones=backbones,
    )
    return compare(distilled, request, tell)


def _print_loss(name: str, rows: list[Evaluation]) -> None:
    """What the 8-bit images lose against the exact ones."""
    for exact in rows:
        for png in rows:
            same = exact.model == png.model
            if same and exact.pixels == "exact" and png.pixels == "png":
                lost = 100 * (exact.scores.mean - png.scores.mean)
                print(
                    f"{name}, {exact.model}: the 8-bit PNG images lose {lost:.2f} points "
                    "against the exact ones"
                )
