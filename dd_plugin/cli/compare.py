"""`dd-plugin compare RUN RUN ...`: runs side by side, from what their folders hold.

Reads `recipe.json` and `log.jsonl` of a finished run, or the newest checkpoint of another one.
Nothing is trained, and torch is not imported.
"""

import argparse
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dd_plugin.cli.errors import CommandError
from dd_plugin.text import percent, table

# Settings of the place where a run writes. They differ between any two runs.
_PLACES = frozenset(
    ["output_dir", "overwrite_output_dir", "rescue_dir", "run_name", "resume_from_checkpoint"]
)
# Measurements of a machine that stand among the settings of a record.
_MEASURED = frozenset(["chosen"])
# With more runs than this, each is a row and not a column.
_MOST_COLUMNS = 4
_LONGEST = 60
_ABSENT = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `compare`."""
    parser.description = (
        "Show runs side by side: the settings that differ, the accuracies with the standard "
        "deviation over networks, and the minutes. Nothing is trained."
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="folder of a run, finished or interrupted"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


@dataclass(kw_only=True)
class RunFacts:
    """The facts about a run.

    Attributes:
        name: its folder, as it was typed.
        settings: of the run.
        versions: of the packages.
        facts: steps and minutes.
        accuracies: of its networks, in [0, 1], by what they were trained on.
        tested_on: data set, split and number of the images that accuracies are of.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    accuracies: dict[str, list[float]] = field(default_factory=dict)
    tested_on: Mapping[str, Any] = field(default_factory=dict)


def run(args: argparse.Namespace) -> int:
    """Print the comparison.

    Raises:
        CommandError: fewer than two runs, or a folder holds none.
    """
    names = list(dict.fromkeys(name.rstrip("/") or name for name in args.runs))
    if len(names) < 2:
        raise CommandError(f"two or more runs must be given, got only {', '.join(names)}")
    runs = [read_run(name) for name in names]
    differing = differences([one.settings for one in runs])
    if args.json:
        report = {
            one.name: {
                "settings": {name: one.settings[name] for name in differing},
                "accuracies": one.accuracies,
                **one.facts,
            }
            for one in runs
        }
        print(json.dumps(report, indent=2))
        return 0
    print("\n".join(_text(runs, differing)))
    return 0


def read_run(name: str) -> RunFacts:
    """Return what the folder of a run tells.

    Raises:
        CommandError: it holds neither a distilled set nor a checkpoint.
    """
    folder = Path(name)
    if (folder / "recipe.json").is_file():
        return _finished(name, _object_in(folder / "recipe.json"))
    from dd_plugin.distiller.saved_runs import STATE, checkpoint_at

    checkpoint = checkpoint_at(folder)
    if checkpoint is None:
        raise CommandError(
            f"{name} holds no run: neither a recipe.json nor a checkpoint; give the folder that "
            "`dd-plugin distill --output_dir` wrote"
        )
    return _unfinished(name, _object_in(checkpoint / STATE))


def differences(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the settings that all runs name and that differ, in the order of the first run."""
    return [
        name
        for name, value in settings[0].items()
        if name not in _PLACES | _MEASURED
        and all(name in one for one in settings)
        and any(one[name] != value for one in settings)
    ]


def minutes_in(log: Iterable[Mapping[str, Any]]) -> float | None:
    """Return how long the steps of a log took, with the evaluations between them.

    Args:
        log: its lines. Each has the mean speed since the one before it.
    """
    seconds, last, known = 0.0, 0.0, False
    for line in log:
        step, speed = line.get("step"), line.get("outer_steps_per_second")
        if isinstance(step, (int, float)) and isinstance(speed, (int, float)) and speed > 0:
            seconds, last, known = seconds + max(step - last, 0) / speed, step, True
    return seconds / 60 if known else None


def _finished(name: str, record: Mapping[str, Any]) -> RunFacts:
    about = _part(record, "about")
    log = _log(Path(name) / "log.jsonl")
    found = RunFacts(
        name=name,
        settings=_part(about, "config"),
        versions=_part(about, "versions"),
        facts={"outer steps": _shown(about.get("outer_steps")), **_minutes(log)},
        tested_on=_part(record, "protocol"),
    )
    for images, result in _part(record, "results").items():
        _note(found, images, result)
    rows = record.get("evaluations")
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict):
            eight_bit = ", 8-bit" if row.get("pixels") == "png" else ""
            words = f"{row.get('trained_on')}{eight_bit}, {row.get('model')}"
            _note(found, f"{words} ({row.get('protocol')})", row)
    return found


def _unfinished(name: str, checkpoint: Mapping[str, Any]) -> RunFacts:
    state, config = _part(checkpoint, "state"), _part(checkpoint, "config")
    history = state.get("log_history")
    log = [line for line in history if isinstance(line, dict)] if isinstance(history, list) else []
    steps = f"{_shown(state.get('global_step'))} of {_shown(config.get('max_steps'))}"
    found = RunFacts(name=name, settings=config, facts={"outer steps": steps, **_minutes(log)})
    evaluated = [line for line in log if "eval_accuracy_mean" in line]
    if evaluated:
        mean, std = (evaluated[-1].get(f"eval_accuracy_{of}") for of in ("mean", "std"))
        if isinstance(mean, float):
            several = (evaluated[-1].get("eval_networks") or 1) > 1
            spread = std if several and isinstance(std, float) else None
            found.facts["accuracy at its last evaluation"] = percent(mean, spread)
    return found


def _note(found: RunFacts, images: str, result: Any) -> None:
    values = result.get("accuracies") if isinstance(result, dict) else None
    if isinstance(values, list) and values and all(isinstance(v, (int, float)) for v in values):
        found.accuracies[images] = [float(value) for value in values]


def _text(runs: Sequence[RunFacts], differing: Sequence[str]) -> list[str]:
    rows = [(name, *(_shown(one.settings[name]) for one in runs)) for name in differing]
    packages = dict.fromkeys(name for one in runs for name in one.versions)
    for name in packages:
        versions = [_shown(one.versions.get(name)) for one in runs]
        if _ABSENT not in versions and len(set(versions)) > 1:
            rows.append((f"version of {name}", *versions))
    lines = ["settings that differ", ""]
    lines += [_side_by_side(runs, rows)] if rows else ["  none"]
    facts = dict.fromkeys(name for one in runs for name in one.facts)
    measured = [(name, *(one.facts.get(name, _ABSENT) for one in runs)) for name in facts]
    trained_on = dict.fromkeys(name for one in runs for name in one.accuracies)
    measured += [
        (f"accuracy: {name}", *(_accuracy(one.accuracies.get(name, [])) for one in runs))
        for name in trained_on
    ]
    lines += ["", "results", "", _side_by_side(runs, measured), ""]
    lines += ["±: standard deviation over the networks, whose number is in parentheses"]
    tested = {
        tuple(_shown(one.tested_on.get(key)) for key in ("dataset", "split", "images"))
        for one in runs
        if one.accuracies
    }
    if len(tested) > 1:
        each = "; ".join(
            " ".join(word for word in one if word != _ABSENT) for one in sorted(tested)
        )
        lines.append(f"the accuracies are of different test images: {each}")
    return lines


def _side_by_side(runs: Sequence[RunFacts], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with a column for each run, or a row where there are many."""
    header = ("", *(one.name for one in runs))
    lines: Iterable[Sequence[str]] = [header, *rows]
    if len(runs) > _MOST_COLUMNS:
        lines = list(zip(*lines, strict=True))
    first, *others = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return table(first, others)


def _accuracy(values: Sequence[float]) -> str:
    if not values:
        return _ABSENT
    spread = statistics.stdev(values) if len(values) > 1 else None
    return f"{percent(statistics.fmean(values), spread)} ({len(values)})"


def _minutes(log: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    minutes = minutes_in(log)
    if minutes is None:
        return {}
    return {"minutes": f"{minutes:.1f}" if minutes >= 0.05 else "below 0.1"}


def _shown(value: Any) -> str:
    if value is None:
        return _ABSENT
    # JSON for its escapes: a record may be a stranger's.
    text = json.dumps(value, ensure_ascii=True)
    text = text[1:-1] if isinstance(value, str) else text
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _part(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = values.get(name)
    return part if isinstance(part, dict) else {}


def _object_in(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CommandError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CommandError(f"{path} must hold an object, got {type(content).__name__}")
    return content


def _log(path: Path) -> list[Mapping[str, Any]]:
    """Return the lines of a log that can be read."""
    lines: list[Mapping[str, Any]] = []
    try:
        for line in path.read_text("utf-8").splitlines():
            content = json.loads(line)
            if isinstance(content, dict):
                lines.append(content)
    except (OSError, ValueError, RecursionError):
        pass  # a set without one, or with a last line that was cut short
    return lines
