"""`dd-plugin inspect MODEL`: the layers of a model that `convert_bn` would convert.

Loads the model, asks `dd_plugin.bn` for the plan of the conversion and `dd_plugin.bilevel` for the
parts that need help under second derivatives, and prints both as tables or JSON. The model is not
changed.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from dd_plugin.cli.errors import CommandError
from dd_plugin.text import columns, count

if TYPE_CHECKING:
    from torch import nn

Report = dict[str, Any]

# What `dd_plugin.bilevel.second_order` does about each kind of need.
_KINDS = {
    "operation": "lacks a rule for second derivatives; a formula replaces it while the engine runs",
    "cache": "is bypassed while the engine runs",
    "checkpointing": "is switched off while the engine runs",
    "input": "may be written into; the model gets copies of its inputs while the engine runs",
    "unsupported": "has no remedy; expect an error",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `inspect`; the choices are those of `convert_bn`."""
    parser.description = (
        "Show which layers of a model convert_bn would convert, which other normalizations it has, "
        "and which of its parts need help under second derivatives. The model is not changed."
    )
    parser.add_argument(
        "model", metavar="MODEL", help="timm/NAME, a Hugging Face Hub id, or a local folder"
    )
    parser.add_argument(
        "--statistics",
        choices=["learned", "tracked", "frozen"],
        default="learned",
        help="what moves the running statistics. learned: gradients; tracked: training steps; "
        "frozen: nothing (default: %(default)s)",
    )
    parser.add_argument(
        "--train_with",
        choices=["batch", "running"],
        default="batch",
        help="statistics that train mode normalizes with: those of the batch, or the running ones "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--include", metavar="PATTERN", nargs="+", help="convert only layers whose name matches"
    )
    parser.add_argument(
        "--exclude", metavar="PATTERN", nargs="+", help="leave out layers whose name matches"
    )
    parser.add_argument(
        "--pretrained",
        action="store_true",
        help="load the weights too, and download them if needed; the report is the same for most "
        "models",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    """Print the report on `args.model`.

    Returns:
        0, also for a model without BatchNorm: that is an answer, and no error.

    Raises:
        CommandError: the model cannot be made, or a pattern is wrong.
    """
    from dd_plugin.models import ModelLoadError, load_model

    _quiet_libraries()
    try:
        model = load_model(args.model, pretrained=args.pretrained)
    except ModelLoadError as error:
        raise CommandError(str(error)) from error
    report = _report(model, args)
    print(json.dumps(report, indent=2) if args.json else _tables(report))
    return 0


def stage_of(names: Iterable[str]) -> dict[str, str]:
    """Group layers into stages by their names alone.

    A stage is the layer's name up to the first component that ends in a digit, without the layer's
    last component: `layer1.0.bn1` is in `layer1`, `blocks.2.0.bn1` in `blocks.2`. The beginning
    that all names share does not count, so a model called `mobilenet_v2` is not one stage.

    Args:
        names: dotted names of layers.

    Returns:
        Name -> stage, in the order of `names`.
    """
    paths = {name: name.split(".") for name in names}
    shared = _shared_beginning(list(paths.values()))
    stages = {}
    for name, path in paths.items():
        parents = path[:-1]
        stops = (
            place for place, part in enumerate(parents) if place >= shared and part[-1:].isdigit()
        )
        stages[name] = ".".join(parents[: next(stops, len(parents)) + 1]) or name
    return stages


def _shared_beginning(paths: list[list[str]]) -> int:
    """The number of components that all of several paths begin with."""
    if len(paths) < 2:
        return 0
    return sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False)))


def _report(model: "nn.Module", args: argparse.Namespace) -> Report:
    from dd_plugin.bilevel import second_order_needs
    from dd_plugin.bn import plan_conversion

    try:
        plan = plan_conversion(
            model,
            statistics=args.statistics,
            train_with=args.train_with,
            include=args.include,
            exclude=args.exclude,
            # That a model has no BatchNorm is an answer; that a pattern matches nothing, a mistake.
            missing_ok=not (args.include or args.exclude),
        )
    except (TypeError, ValueError) as error:
        raise CommandError(f"{args.model}: {error}") from error
    # The stages are the model's, whatever part of it a pattern selects.
    stages = stage_of([*(planned.name for planned in plan.layers), *plan.unselected])
    return {
        "model": args.model,
        "class": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "policy": {
            "statistics": plan.statistics,
            "train_with": plan.train_with,
            "include": args.include,
            "exclude": args.exclude,
        },
        "convert": {
            "layers": len(plan.layers),
            "by_class": _counts(planned.stock_class.__name__ for planned in plan.layers),
            "by_stage": _counts(stages[planned.name] for planned in plan.layers),
        },
        "left_by_pattern": list(plan.unselected),
        "other_normalisations": plan.other_norms,
        "second_order": [asdict(need) for need in second_order_needs(model)],
    }


def _counts(names: Iterable[str]) -> dict[str, int]:
    """The number of times that each name occurs, in the order of first occurrence."""
    return dict(Counter(names))


def _quiet_libraries() -> None:
    """Keep progress bars and notices of other libraries out of a report."""
    import logging

    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("timm").setLevel(logging.ERROR)


def _tables(report: Report) -> str:
    policy, convert = report["policy"], report["convert"]
    lines = [
        f"{report['model']}: {report['class']}, {report['parameters']:,} parameters",
        f"policy: statistics={policy['statistics']!r}, train_with={policy['train_with']!r}"
        + "".join(f", {side}={policy[side]!r}" for side in ("include", "exclude") if policy[side]),
        "",
    ]
    if convert["layers"]:
        lines += [f"convert_bn would convert {count(convert['layers'], 'layer')}", ""]
        lines += [*columns(["class", "layers"], convert["by_class"].items()), ""]
        lines += columns(["stage", "layers"], convert["by_stage"].items())
    else:
        lines += ["convert_bn would convert nothing: no BatchNorm-type layer was found"]
    if report["left_by_pattern"]:
        lines += ["", f"left as they are by pattern: {', '.join(report['left_by_pattern'])}"]
    lines += ["", "other normalizations, left as they are", ""]
    lines += columns(["class", "layers"], report["other_normalisations"].items())
    lines += ["", "what second derivatives need", ""]
    lines += columns(
        ["kind", "what", "modules", "first in"],
        [
            (need["kind"], need["what"], need["count"], need["where"] or "(the root)")
            for need in report["second_order"]
        ],
    )
    if report["second_order"]:
        lines += ["", *_second_order_legend({need["kind"] for need in report["second_order"]})]
    return "\n".join(lines)


def _second_order_legend(kinds: set[str]) -> list[str]:
    """One line on each kind in the table: what the engine does about it."""
    return [f"  {kind}: {meaning}" for kind, meaning in _KINDS.items() if kind in kinds]
