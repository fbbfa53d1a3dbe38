"""Results and speed of several runs as one JSON file.

    python examples/reproduce/collect.py RUN... --json docs/results/mnist.json

A RUN is a folder that `dd-plugin distill` wrote. Accuracies are those of its record; speed and
memory are medians over the lines of its log, minutes and the curve of accuracy over them follow
from its speeds. What the JSON file holds of other runs stays.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from dd_plugin.hub.card.results import times_smaller

SPEED = ("outer_steps_per_second", "images_per_second", "peak_memory_mb")


def curve_of(lines: list[dict[str, Any]]) -> tuple[float, list[dict[str, float]]]:
    """Minutes that a run took, by its log, and the accuracy of every evaluation at its minute.

    The speed of a line is over the time since the line before, evaluations and compiling included,
    but for what comes after the last line.
    """
    seconds, step = 0.0, 0
    curve = []
    for line in lines:
        if "outer_steps_per_second" in line:
            seconds += (line["step"] - step) / line["outer_steps_per_second"]
            step = line["step"]
        if "eval_accuracy_mean" in line:
            at = {"minutes": round(seconds / 60, 2), "step": line["step"]}
            curve.append({**at, "accuracy": line["eval_accuracy_mean"]})
    return seconds / 60, curve


def row_of(folder: Path) -> dict[str, Any]:
    """What a run came to."""
    record = json.loads((folder / "recipe.json").read_text())
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "outer_steps_per_second" in line]
    minutes, curve = curve_of(lines)
    recipe, config = record["recipe"], record["about"]["config"]
    return {
        "run": folder.name,
        "network": recipe["model"],
        "model_args": recipe["model_args"],
        "init": recipe["init"],
        "statistics": recipe["statistics"],
        "images": record["images"]["count"],
        "stored_as": record["images"]["count"] // times_smaller(record["images"]),
        "inner_steps": recipe["steps"],
        "outer_steps": record["about"]["outer_steps"],
        "real_batch_size": config["real_batch_size"],
        "compile": config["compile"],
        "best_step": record["protocol"].get("best_step"),
        "results": record["results"],
        "tested_on": f"{record['protocol'].get('images')} images of {config['eval_split']}",
        **{name: statistics.median(line[name] for line in logged) for name in SPEED},
        "minutes": round(minutes, 1),
        "curve": curve,
        "versions": record["about"]["versions"],
    }


def add_rows(rows: list[dict[str, Any]], path: Path) -> None:
    """Put rows into a file; what it holds of other runs stays."""
    before = json.loads(path.read_text()) if path.exists() else []
    names = {row["run"] for row in rows}
    rows = sorted([r for r in before if r["run"] not in names] + rows, key=lambda r: r["run"])
    path.write_text(json.dumps(rows, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = [row_of(folder) for folder in args.runs]
    for row in rows:
        print(row["run"], row["results"]["distilled"]["mean"])
    if args.json:
        add_rows(rows, args.json)


if __name__ == "__main__":
    main()
