"""Tables of accuracies: runs, treatments of BatchNorm, and the selection on the start page."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from rendering.markdown import percent, rows_of, table

Row = dict[str, Any]
# What the record of a run calls its baselines -> what a table does.
BASELINES = {"random real": "as many random real images", "full data": "all real images"}
# Data set -> its name in prose.
NAMES = {"digits": "digits (8x8)", "mnist": "MNIST", "cifar10": "CIFAR-10"}


def recipes(rows: list[Row]) -> list[list[Row]]:
    """Runs that differ in their seed alone belong together; in the order of the file."""
    same = (
        "network",
        "model_args",
        "init",
        "statistics",
        "images",
        "inner_steps",
        "outer_steps",
        "real_batch_size",
    )
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        name = row["run"].partition("_seed")[0]
        found[json.dumps([name, *(row.get(key) for key in same)])].append(row)
    return list(found.values())


def accuracy(runs: list[Row], trained_on: str = "distilled") -> str:
    """Of one run the mean and spread of its networks; of several those of the runs' means."""
    results = [run["results"][trained_on] for run in runs if trained_on in run["results"]]
    if len(results) > 1:
        return percent([result["mean"] for result in results])
    return percent(results[0]["accuracies"]) if results else ""


def norm(row: Row) -> str:
    """The kind of normalisation that a run's arguments name."""
    kind = str(row["model_args"].get("norm_layer", ""))
    if row["statistics"]:
        return f"BatchNorm, {row['statistics']}"
    names = {"instancenorm2d": "InstanceNorm", "groupnorm": "GroupNorm", "none": "none"}
    if row["network"].endswith("dd_convnet"):
        kind = kind or "instancenorm2d"
    return names.get(kind, kind)


def runs(report: Any) -> str:
    """One line per recipe: what it is, what it reaches, how fast."""
    groups = recipes(rows_of(report))
    there = [name for name in BASELINES if any(name in run["results"] for g in groups for run in g)]
    head = ["recipe", "network", "norm", "start", "images", "inner steps", "outer steps"]
    head += ["accuracy", *(BASELINES[name] for name in there), "runs"]
    head += ["outer steps/s", "images/s", "memory"]
    cells = []
    for group in groups:
        first = group[0]
        speed, images, memory = (
            statistics.median(run[key] for run in group)
            for key in ("outer_steps_per_second", "images_per_second", "peak_memory_mb")
        )
        cells.append(
            [
                first["run"].partition("_seed")[0],
                first["network"].removeprefix("timm/"),
                norm(first),
                first["init"],
                first["images"],
                first["inner_steps"],
                f"{first['outer_steps']:,}",
                accuracy(group),
                *(accuracy(group, name) for name in there),
                len(group),
                f"{speed:.2f}",
                f"{images:,.0f}",
                f"{memory:,.0f} MB",
            ]
        )
    return table(head, cells, "llll" + "r" * (len(head) - 4))


def selection(reports: Mapping[str, Any]) -> str:
    """For the start page: of every data set, start and number of images the best recipe."""
    best: dict[tuple[str, str, int], list[Row]] = {}
    for name, report in reports.items():
        for group in recipes(rows_of(report)):
            key = (name, group[0]["init"], group[0]["images"])
            if key not in best or mean(group) > mean(best[key]):
                best[key] = group
    head = ["data", "images", "network", "weights at the start", "accuracy"]
    cells = [
        [NAMES.get(name, name), images, described(group[0]), init, accuracy(group)]
        for (name, init, images), group in best.items()
    ]
    return table(head, cells, "lrllr")


def baselines(reports: Mapping[str, Any]) -> str:
    """A run beside what it has to be compared with."""
    (run,) = rows_of(reports["digits"])
    results = run["results"]
    named = {"distilled": "distilled images", **BASELINES}
    cells = [
        [
            text,
            "all" if name == "full data" else run["images"],
            percent(results[name]["accuracies"]),
            len(results[name]["accuracies"]),
        ]
        for name, text in named.items()
        if name in results
    ]
    return table(["trained on", "images", "accuracy", "networks"], cells, "lrrr")


def mean(group: list[Row]) -> float:
    """Of the accuracies of a recipe's runs."""
    return statistics.fmean(run["results"]["distilled"]["mean"] for run in group)


def described(row: Row) -> str:
    """Network and normalisation."""
    network = row["network"].removeprefix("timm/")
    return f"{network}, {norm(row)}" if norm(row) else network


def policies(report: Mapping[str, Any]) -> str:
    """Treatments of BatchNorm: means over seeds and networks, and the spread of both."""
    parts = []
    for setting, own in by_setting(rows_of(report)).items():
        steps, inner, width = setting[2:]
        cells = []
        for case, found in by_case(own).items():
            means = [statistics.fmean(a) for a in found]
            within = [100 * statistics.stdev(a) for a in found if len(a) > 1]
            spread = f"{statistics.fmean(within):.1f}" if within else ""
            cells.append([case, percent(means), len(found), spread])
        cells.sort(key=lambda row: -float(row[1].split()[0]))
        head = ["treatment", "accuracy, ± over seeds", "seeds", "± over networks"]
        parts.append(
            f"**{named(setting)}**, {steps:,} outer and {inner} inner steps, width {width}:\n\n"
            + table(head, cells, "lrrr")
        )
    return "\n\n".join(parts)


def by_setting(rows: list[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Rows that can be compared: the same start, images per class, steps and width."""
    same = ("images_per_class", "steps", "inner_steps", "width")
    found: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        found[row.get("init", "random"), *(row[key] for key in same)].append(row)
    return dict(sorted(found.items(), key=lambda pair: (pair[0][0] == "fixed", pair[0][1:])))


def named(setting: tuple[Any, ...]) -> str:
    """The first two parts of a setting in words."""
    init, per_class = setting[:2]
    return f"{init} start, {per_class} image{'s' * (per_class > 1)} per class"


def by_case(rows: list[Row]) -> dict[str, list[list[float]]]:
    """Accuracies of every seed, by treatment."""
    found: dict[str, list[list[float]]] = defaultdict(list)
    for row in rows:
        found[row["case"]].append(row["accuracies"])
    return found
