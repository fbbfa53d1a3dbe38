"""`dd-plugin distill`: a distillation run from flags, a YAML file or a recipe to its results.

Every flag is a field of `DistillerConfig`. With no arguments it distils the handwritten digits that
come with scikit-learn.
"""

import argparse
import difflib
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from dd_plugin.cli.errors import CommandError
from dd_plugin.recipes import recipe_names, recipe_summary

_RECIPE = "recipe:"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `distill`: the fields of `DistillerConfig`, group by group."""
    from transformers import HfArgumentParser

    from dd_plugin.distiller.config import DistillerConfig
    from dd_plugin.distiller.settings import GROUPS, setting_defaults, setting_groups

    parser.description = (
        "Distill a data set into a few synthetic images. Without options: the handwritten digits "
        "that come with scikit-learn, in a minute or two on a CPU."
    )
    parser.add_argument(
        "config",
        nargs="?",
        metavar="CONFIG.yaml | recipe:NAME",
        help="settings: a YAML file, or a recipe by its name (`recipe:` lists them); write it "
        "first, options override it",
    )
    titles, defaults = setting_groups(), setting_defaults()
    groups = {title: parser.add_argument_group(title) for title in GROUPS}
    fields = HfArgumentParser(DistillerConfig)
    for action in fields._actions:
        if not isinstance(action, argparse._HelpAction):
            action.default, action.required = argparse.SUPPRESS, False
            if action.choices is not None:
                # `DistillerConfig` refuses others in one line, without the usage.
                action.metavar = f"{{{','.join(action.choices)}}}"
                action.choices, action.type = None, str
            is_negative = action.option_strings[0].startswith("--no_")
            if is_negative:
                action.help = f"The same as `--{action.dest} false`."
            elif defaults[action.dest]:
                action.help = f"{action.help} (default: {defaults[action.dest]})"
            group = groups[titles[action.dest]]
            group._add_action(_repeatable(action) if action.dest == "model" else action)


def _repeatable(action: argparse.Action) -> argparse.Action:
    """The same option, whose values add up where it is given several times."""
    parser = argparse.ArgumentParser(add_help=False)
    return parser.add_argument(
        *action.option_strings,
        action="extend",
        nargs="+",
        default=argparse.SUPPRESS,
        help=action.help,
    )


def run(args: argparse.Namespace) -> int:
    """Runs it.

    Returns:
        The exit code; 130 or 143 when a signal ended the run early.
    """
    import warnings

    given = {k: v for k, v in vars(args).items() if k not in ("command", "debug", "config")}
    recipe = (args.config or "").startswith(_RECIPE)
    name = args.config.removeprefix(_RECIPE) if recipe else None
    if name is not None and name not in recipe_names():
        return _without_recipe(name)
    values = {**({} if recipe else _from_yaml(args.config)), **given}

    from dd_plugin.bilevel import VerificationError
    from dd_plugin.distiller import Distiller, DistillerConfig, NonFiniteError
    from dd_plugin.distiller.checkpoint import checkpoints
    from dd_plugin.distiller.output_folder import check_output_dir
    from dd_plugin.distiller.report import results_table
    from dd_plugin.distiller.run_folder import newest_checkpoint
    from dd_plugin.hub import PushError

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if name is None:
                config = DistillerConfig(**values)
            else:
                config = DistillerConfig.from_recipe(name, **values)
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
        raise CommandError(_with_flags(str(error))) from error
    except VerificationError as error:
        raise CommandError(
            f"{error} On the command line these are --compile no, --method reverse and --verify "
            "false."
        ) from error
    except OSError as error:
        newest = newest_checkpoint(distiller.output_dir)
        raise CommandError(_with_flags(f"{error}. {newest}")) from error
    if state.interrupted:
        if main:
            left = checkpoints(distiller.output_dir)
            if not config.save_steps:
                rest = "without checkpoints (--save_steps 0) it cannot go on"
            elif left:
                rest = f"go on with --resume_from_checkpoint latest, from {left[-1].name}"
            else:
                rest = "no checkpoint could be written, so it cannot go on"
            _tell(
                f"ended by {state.interrupted} after {state.global_step} of {state.max_steps} "
                f"steps; {rest}"
            )
        distiller.end()
        return 143 if state.interrupted == "SIGTERM" else 130
    folder = _saved(distiller)
    if distiller.eval_data is not None:
        if main and config.baselines:
            trained = "networks" if distiller.head is None else "heads"
            _tell(
                f"written to {folder}/; now compared with real images, for which {trained} are "
                "trained (Ctrl-C leaves this out)"
            )
        try:
            distiller.compare()
        except KeyboardInterrupt:
            if main:
                _tell(
                    f"\nthe comparison is left out; the distilled set is in {folder}, and "
                    "`dd-plugin evaluate` compares it"
                )
            distiller.end()
            return 130
        try:
            folder = distiller.save_model()
        except (OSError, ValueError) as error:
            # The set has been written before; the table is printed below.
            if main:
                _tell(
                    f"dd-plugin distill: warning: the distilled set is in {folder}, but its "
                    f"accuracies could not be added: {error}"
                )
    if main:
        if distiller.results:
            classes = distiller.synthetic.recipe.num_classes
            print("\n" + results_table(distiller.results, classes, config))
        print(f"\nwritten to {folder}/: " + ", ".join(sorted(_names(folder))))
    if config.push_to_hub:
        try:
            address = distiller.push_to_hub()
        except (PushError, OSError, ValueError) as error:
            raise CommandError(f"the set is in {folder}, but {error}") from error
        if main:
            print(f"published: {address}")
    distiller.end()
    return 0


def _without_recipe(name: str) -> int:
    """List the recipes for whoever names none; returns the exit code.

    Raises:
        CommandError: a name is given, but there is no such recipe.
    """
    if not name:
        print("\n".join(_listed()))
        return 0
    close = difflib.get_close_matches(name, recipe_names(), n=3)
    if close:
        hint = f"did you mean {', '.join(f'{_RECIPE}{other}' for other in close)}?"
    else:
        _tell("\n".join(_listed()))
        hint = "the recipes are listed above"
    raise CommandError(f"there is no recipe {name!r}; {hint}")


def _listed() -> list[str]:
    names = recipe_names()
    width = max(map(len, names))
    return [f"{_RECIPE}{name:{width}}  {recipe_summary(name)}" for name in names]


def _saved(distiller: Any) -> Path:
    """Write the set; at a terminal, ask for room or another folder as often as it takes."""
    place: str | None = None
    while True:
        try:
            folder: Path = distiller.save_model(place)
            return folder
        except (OSError, ValueError) as error:
            problem = error
        alone = distiller.accelerator.num_processes == 1
        if not (alone and sys.stdin.isatty() and sys.stderr.isatty()):
            raise CommandError(_with_flags(str(problem))) from problem
        _tell(f"dd-plugin distill: {_with_flags(str(problem))}")
        _tell("Make room and press Enter to try again, or type another folder; Ctrl-C gives up.")
        line = sys.stdin.readline()
        if not line:
            raise CommandError(_with_flags(str(problem))) from problem
        place = line.strip() or None


def _tell(line: str) -> None:
    # A run does not end because the disk under its log is full.
    with suppress(OSError):
        print(line, file=sys.stderr)


def _with_flags(text: str) -> str:
    """Return a text with settings spelled as options of the command."""
    from dataclasses import fields

    from dd_plugin.distiller.config import DistillerConfig

    names = {f.name for f in fields(DistillerConfig)}

    def flag(found: re.Match[str]) -> str:
        name, value = found["name"], found["value"]
        if name not in names:
            return found[0]
        return f"--{name}" if value is None else f"--{name} {value}"

    return re.sub(r"`(?P<name>\w+)(?:=(?P<value>\w+))?`", flag, text)


def _names(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if not p.name.startswith((".", "checkpoint-"))]


def _from_yaml(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} cannot be read as YAML: {error}") from error
    except yaml.YAMLError as error:
        # Its own text quotes the line, which may hold a token.
        place = getattr(error, "problem_mark", None)
        where = f", line {place.line + 1}" if place else ""
        raise CommandError(
            f"{path}{where} cannot be read as YAML: {getattr(error, 'problem', None) or 'invalid'}"
        ) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise CommandError(f"{path} must hold `option: value` lines, got {type(content).__name__}")
    from dataclasses import fields

    from dd_plugin.distiller.config import DistillerConfig

    known = {f.name for f in fields(DistillerConfig)}
    unknown = sorted(set(map(str, content)) - known)
    if unknown:
        close = [m for name in unknown for m in difflib.get_close_matches(name, known, n=1)]
        hint = f"; did you mean {', '.join(map(repr, close))}?" if close else ""
        raise CommandError(f"{path} has unknown options {unknown}{hint}")
    return {str(k): v for k, v in content.items()}
