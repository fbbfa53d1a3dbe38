"""`dd-plugin distill`: a distillation run from flags, a YAML file or a recipe to its results.

Every flag is a field of `DistillerConfig`; `run_settings` reads them. With no arguments it distills
the handwritten digits that come with scikit-learn.
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dd_plugin.cli.errors import CommandError, tell
from dd_plugin.cli.planning import dry_run, tell_plan
from dd_plugin.cli.resumed import resume_hint, resumed_config
from dd_plugin.cli.run_settings import (
    list_recipes,
    make_config,
    recipe_of,
    settings_from_yaml,
    with_flags,
)
from dd_plugin.memory import uncollected
from dd_plugin.recipes import recipe_names

if TYPE_CHECKING:
    from dd_plugin.distiller import Distiller, DistillerConfig, DistillerState


_NO_SETTINGS = frozenset({"command", "debug", "config", "dry_run", "resume"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `distill`: the fields of `DistillerConfig`, group by group."""
    from dd_plugin.cli.options import add_settings

    parser.description = (
        "Distill a data set into a few synthetic images. Without options: the handwritten digits "
        "that come with scikit-learn, in a minute or two on a CPU. The help shows the common "
        "options, and --help_all shows all of them."
    )
    parser.usage = "%(prog)s [CONFIG.yaml | recipe:NAME] [--OPTION VALUE ...]"
    parser.add_argument(
        "config",
        nargs="?",
        metavar="CONFIG.yaml | recipe:NAME",
        help="settings from a YAML file, or from a recipe (`dd-plugin recipes` lists them). It "
        "stands before the options, which override it.",
    )
    parser.add_argument(
        "--dry_run",
        "--dry-run",
        action="store_true",
        help="print what the run would do and how long it would take, and end. Two of its steps "
        "are measured for that.",
    )
    parser.add_argument(
        "--resume",
        metavar="RUN",
        default=argparse.SUPPRESS,
        help="Resume a run with its own settings, from its folder (the newest checkpoint) or from "
        "one of its checkpoints. No other option is needed. Options that differ are taken if they "
        "leave the run as it is, such as save_steps, and refused if not.",
    )
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Distill, compare with real images and publish, as far as the settings say.

    Returns:
        The exit code; 130 or 143 when a signal ended the run early.

    Raises:
        CommandError: the settings do not fit together or to the data, the run diverges, or its
            results cannot be written or published.
    """
    recipe = recipe_of(args.config)
    if recipe is not None and recipe not in recipe_names():
        list_recipes(recipe)
        return 0
    options = {k: v for k, v in vars(args).items() if k not in _NO_SETTINGS}
    file = args.config if recipe is None else None
    values = {**settings_from_yaml(file), **options}
    config = _config(recipe, values, getattr(args, "resume", None))
    if args.dry_run:
        return dry_run(config, lambda: _make_distiller(config))
    distiller = _make_distiller(config)
    tell_plan(distiller)
    is_main = distiller.accelerator.is_main_process
    state = _train(distiller)
    if state.interrupted:
        if is_main:
            tell(_interruption(distiller, state))
        distiller.end()
        return 143 if state.interrupted == "SIGTERM" else 130
    folder = _saved(distiller)
    if distiller.eval_data is not None:
        if not _compare(distiller, folder):
            distiller.end()
            return 130
        folder = _saved_again(distiller, folder)
    if is_main:
        _print_results(distiller, folder)
    if distiller.config.push_to_hub:
        _publish(distiller, folder)
    distiller.end()
    return 0


def _config(recipe: str | None, values: dict[str, Any], resumed: str | None) -> "DistillerConfig":
    """Return the settings of the run; torch is not imported for them."""
    if resumed is not None:
        if recipe is not None:
            raise CommandError("--resume takes the settings of the run; leave the recipe out")
        return resumed_config(resumed, values)
    try:
        return make_config(recipe, values)
    except (ValueError, TypeError) as error:
        raise CommandError(str(error)) from error


def _make_distiller(config: "DistillerConfig") -> "Distiller":
    with uncollected():
        from dd_plugin.distiller import Distiller
        from dd_plugin.distiller.output_folder import check_output_dir
        from dd_plugin.hub import PushError
        from dd_plugin.private import build_dynamo_rules

        if config.trainable == "all":
            build_dynamo_rules()  # an import of a second, which the first step needs
    try:
        check_output_dir(config)
        distiller = Distiller(config=config)
    except (ValueError, TypeError, OSError, ImportError, PushError) as error:
        raise CommandError(str(error)) from error
    if distiller.eval_data is None and distiller.accelerator.is_main_process:
        print(
            "dd-plugin distill: warning: there is no split validation or test, so nothing is "
            "evaluated; name one with --eval_split",
            file=sys.stderr,
        )
    return distiller


def _train(distiller: "Distiller") -> "DistillerState":
    """Run the outer steps, with errors in the words of the command line."""
    from dd_plugin.bilevel import VerificationError
    from dd_plugin.distiller import NonFiniteError
    from dd_plugin.distiller.run_folder import newest_checkpoint

    try:
        return distiller.train()
    except (ValueError, TypeError, NonFiniteError) as error:
        raise CommandError(with_flags(str(error))) from error
    except KeyboardInterrupt:
        if distiller.accelerator.is_main_process:
            tell(f"\nended at once; {_way_on(distiller, 'there is no checkpoint')}")
        raise
    except VerificationError as error:
        raise CommandError(
            f"{error} On the command line these are --compile no, --method reverse and --verify "
            "false."
        ) from error
    except OSError as error:
        newest = newest_checkpoint(distiller.output_dir)
        raise CommandError(with_flags(f"{error}. {newest}")) from error


def _interruption(distiller: "Distiller", state: "DistillerState") -> str:
    """How far an interrupted run came, and how to resume it."""
    done = f"{state.global_step} of {state.max_steps} steps"
    rest = _way_on(distiller, "no checkpoint could be written")
    return f"ended by {state.interrupted} after {done}; {rest}"


def _way_on(distiller: "Distiller", without: str) -> str:
    """Return how to resume a run that ended, or why it cannot be.

    Args:
        distiller: of the run.
        without: why there is no checkpoint, where the run was to write some.
    """
    from dd_plugin.distiller.saved_runs import checkpoints

    if not distiller.config.save_steps:
        return "it cannot be resumed: there are no checkpoints (--save_steps 0)"
    if checkpoints(distiller.output_dir):
        return resume_hint(distiller.output_dir, distiller.accelerator.num_processes)
    return f"it cannot be resumed: {without}"


def _saved(distiller: Any) -> Path:
    """Write the set; at a terminal, ask for room or another folder until it is written."""
    place: str | None = None
    while True:
        try:
            folder: Path = distiller.save_model(place)
            return folder
        except (OSError, ValueError) as error:
            problem = error
        alone = distiller.accelerator.num_processes == 1
        if not (alone and sys.stdin.isatty() and sys.stderr.isatty()):
            raise CommandError(with_flags(str(problem))) from problem
        tell(f"dd-plugin distill: {with_flags(str(problem))}")
        tell("Make room and press Enter to try again, or type another folder; Ctrl-C gives up.")
        line = sys.stdin.readline()
        if not line:
            raise CommandError(with_flags(str(problem))) from problem
        place = line.strip() or None


def _compare(distiller: "Distiller", folder: Path) -> bool:
    """Compare the set with real images; returns False if Ctrl-C ended that."""
    is_main = distiller.accelerator.is_main_process
    try:
        if is_main and distiller.config.baselines:
            trained = "networks" if distiller.head is None else "heads"
            tell(
                f"written to {folder}/; now {trained} are trained on real images, to compare with "
                "(Ctrl-C leaves this out)"
            )
        distiller.compare()
    except KeyboardInterrupt:
        if is_main:
            command = shlex.join(["dd-plugin", "evaluate", str(folder)])
            tell(
                f"\nthe comparison is left out; the distilled set is in {folder}. Compare it "
                f"with: {command}"
            )
        return False
    return True


def _saved_again(distiller: "Distiller", folder: Path) -> Path:
    """Write the set with its accuracies; where that fails, it stays as it is in its folder."""
    try:
        return distiller.save_model()
    except (OSError, ValueError) as error:
        if distiller.accelerator.is_main_process:
            tell(
                f"dd-plugin distill: warning: the distilled set is in {folder}, but its "
                f"accuracies could not be added: {error}"
            )
        return folder


def _print_results(distiller: "Distiller", folder: Path) -> None:
    from dd_plugin.distiller.report import results_table

    if distiller.results:
        classes = distiller.synthetic.recipe.num_classes
        print("\n" + results_table(distiller.results, classes, distiller.config))
    visible = [p.name for p in folder.iterdir() if not p.name.startswith((".", "checkpoint-"))]
    print(f"\nwritten to {folder}/: " + ", ".join(sorted(visible)))


def _publish(distiller: "Distiller", folder: Path) -> None:
    from dd_plugin.hub import PushError

    try:
        address = distiller.push_to_hub()
    except (PushError, OSError, ValueError) as error:
        raise CommandError(f"the set is in {folder}, but {error}") from error
    if distiller.accelerator.is_main_process:
        print(f"published: {address}")
