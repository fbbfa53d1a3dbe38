"""`dd-plugin distill`: a distillation run from flags or a YAML file to a folder with its results.

Every flag is a field of `DistillerConfig`. With no arguments it distils the handwritten digits that
come with scikit-learn.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from dd_plugin.cli.errors import CommandError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `distill`: the fields of `DistillerConfig`."""
    from transformers import HfArgumentParser

    from dd_plugin.distiller.config import DistillerConfig

    parser.description = (
        "Distil a data set into a few synthetic images. Without options: the handwritten digits "
        "that come with scikit-learn, in a minute or two on a CPU."
    )
    parser.add_argument(
        "config",
        nargs="?",
        metavar="CONFIG.yaml",
        help="settings; write it first, options override it",
    )
    fields = HfArgumentParser(DistillerConfig)
    for action in fields._actions:
        if not isinstance(action, argparse._HelpAction):
            action.default, action.required = argparse.SUPPRESS, False
            parser._add_action(action)


def run(args: argparse.Namespace) -> int:
    """Runs it.

    Returns:
        The exit code; 130 or 143 when a signal ended the run early.
    """
    import warnings

    given = {k: v for k, v in vars(args).items() if k not in ("command", "debug", "config")}
    values = {**_from_yaml(args.config), **given}

    from dd_plugin.bilevel import VerificationError
    from dd_plugin.distiller import Distiller, DistillerConfig, NonFiniteError
    from dd_plugin.distiller.output_folder import check_output_dir
    from dd_plugin.distiller.report import results_table
    from dd_plugin.hub import PushError

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            config = DistillerConfig(**values)
        for warning in caught:
            print(f"dd-plugin distill: warning: {warning.message}", file=sys.stderr)
        if not config.eval_steps and "eval_networks" in values:
            # In Python it is the default of `Distiller.evaluate`.
            print(
                f"dd-plugin distill: warning: `eval_networks` = {config.eval_networks} has no "
                "effect with `eval_steps` = 0; the table at the end is of `final_eval_networks`",
                file=sys.stderr,
            )
        check_output_dir(config)
        distiller = Distiller(config=config)
        main = distiller.accelerator.is_main_process
        if distiller.eval_data is None and main:
            print(
                "dd-plugin distill: warning: there is no split validation or test, so nothing is "
                "evaluated; name one with --eval_split",
                file=sys.stderr,
            )
    except (ValueError, TypeError, OSError, ImportError, PushError) as error:
        raise CommandError(str(error)) from error
    try:
        state = distiller.train()
    except (ValueError, TypeError, NonFiniteError) as error:
        raise CommandError(str(error)) from error
    except VerificationError as error:
        raise CommandError(
            f"{error} On the command line these are --compile no, --method reverse and --verify "
            "false."
        ) from error
    if state.interrupted:
        if main:
            print(
                f"ended by {state.interrupted} after {state.global_step} of {state.max_steps} "
                "steps; "
                + (
                    "go on with --resume_from_checkpoint latest"
                    if config.save_steps
                    else "without checkpoints (--save_steps 0) it cannot go on"
                ),
                file=sys.stderr,
            )
        distiller.accelerator.end_training()
        return 143 if state.interrupted == "SIGTERM" else 130
    folder = distiller.save_model()
    if distiller.eval_data is not None:
        if main and config.baselines:
            print(
                f"written to {folder}/; now compared with real images, for which networks are "
                "trained (Ctrl-C leaves this out)",
                file=sys.stderr,
            )
        try:
            distiller.compare()
        except KeyboardInterrupt:
            if main:
                print(
                    f"\nthe comparison is left out; the distilled set is in {folder}, and "
                    "`dd-plugin evaluate` compares it",
                    file=sys.stderr,
                )
            distiller.accelerator.end_training()
            return 130
        folder = distiller.save_model()
    if main:
        if distiller.results:
            classes = distiller.synthetic.recipe.num_classes
            print("\n" + results_table(distiller.results, classes, config))
        print(f"\nwritten to {folder}/: " + ", ".join(sorted(_names(folder))))
    if config.push_to_hub:
        try:
            address = distiller.push_to_hub()
        except PushError as error:
            raise CommandError(f"the set is in {folder}, but {error}") from error
        if main:
            print(f"published: {address}")
    distiller.accelerator.end_training()
    return 0


def _names(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if not p.name.startswith((".", "checkpoint-"))]


def _from_yaml(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CommandError(f"{path} cannot be read as YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise CommandError(f"{path} must hold `option: value` lines, got {type(content).__name__}")
    from dataclasses import fields

    from dd_plugin.distiller.config import DistillerConfig

    known = {f.name for f in fields(DistillerConfig)}
    unknown = sorted(set(map(str, content)) - known)
    if unknown:
        import difflib

        close = [m for name in unknown for m in difflib.get_close_matches(name, known, n=1)]
        hint = f"; did you mean {', '.join(map(repr, close))}?" if close else ""
        raise CommandError(f"{path} has unknown options {unknown}{hint}")
    return {str(k): v for k, v in content.items()}
