"""Tables of the start pages: what was reached, and what it costs beside other tools."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from rendering import heads, quality
from rendering.markdown import percent, rows_of, table, with_range

Row = dict[str, Any]
# What `tests.benchmarks.hypergradient` calls the engine in float32, the last choice of a run first.
_OURS = ("compiled", "long runs")
_OTHERS = ("higher", "torchopt")
# Networks of the summary, as the file begins their names.
_SUMMARIZED = ("ConvNet, width 32", "ResNet-18", "ViT-Tiny")


def results(reports: Mapping[str, Any]) -> str:
    """One line per fact: the best recipe of every data set, number of images and kind of start."""
    lines = _of_heads(reports) if {"heads", "heads-augmented"} <= set(reports) else []
    best: dict[tuple[str, ...], list[Row]] = {}
    for name in quality.NAMES:
        for group in quality.recipes(rows_of(reports.get(name, []))):
            first = group[0]
            images = str(first["images"])
            if quality.number_of_images(first) != images:
                continue  # smaller images in the storage of fewer: a story of its own
            key = (quality.NAMES[name], first["init"], images)
            if key not in best or quality.mean_accuracy(group) > quality.mean_accuracy(best[key]):
                best[key] = group
    for (data, init, images), group in best.items():
        known = ", known initial weights" if init == "fixed" else ""
        accuracies = [
            quality.accuracy(group, on) for on in ("distilled", "random real", "full data")
        ]
        lines.append([f"{data}, {images} images{known}", *accuracies, quality.minutes(group)])
    head = ["distilled", "accuracy", "random real", "all real", "minutes"]
    return table(head, lines, "lrrrr")


def _of_heads(files: Mapping[str, Any]) -> list[list[str]]:
    """A frozen network that the images were learned on, and one that took no part."""
    runs = heads.runs_with(files["heads"], labels="hard")
    one = [run for run in runs if run["sources"] == "lite0"]
    two = [run for run in runs if run["sources"] == "lite0, lite1"]
    trained_on: list[tuple[str, str | None]] = [
        ("distilled images", "png"),
        ("random real images", None),
        ("all real images", None),
    ]
    alone = [percent(_heads_on(one, "lite0", *what)) for what in trained_on]
    return [
        ["CIFAR-10, 10 images, head of one frozen network", *alone, _minutes_of_heads(one)],
        [
            "CIFAR-10, 10 images, head of a third, learned on two",
            *_by_recipe(files, 400, "lite2"),
            _minutes_of_heads(two),
        ],
    ]


def recipe_of_heads(files: Mapping[str, Any]) -> str:
    """What heads reach on the images of `cifar10_head_ipc1`, by network and outer steps."""
    networks = {
        "lite0": "lite0, learned on",
        "lite1": "lite1, learned on",
        "lite2": "lite2, took no part",
    }
    cells = [
        [said, f"{steps:,}", *_by_recipe(files, steps, network)]
        for steps in (400, 1600)
        for network, said in networks.items()
    ]
    head = ["tested on", "steps", "these ten", "ten random real", "all 6,000"]
    return table(head, cells, "lrrrr")


def _by_recipe(files: Mapping[str, Any], steps: int, network: str) -> list[str]:
    """Accuracies of heads on copies of the distilled and of random real images, and on all."""
    copied = [
        row
        for one in files["heads-augmented"]["sets"]
        if one["set"].startswith("lite0+lite1_") and one["set"].endswith(f"_{steps}_recipe")
        for row in one["rows"]
        if row["model"].endswith(network)
    ]
    runs = heads.runs_with(files["heads"], labels="hard")
    two = [run for run in runs if run["sources"] == "lite0, lite1"]
    return [
        percent(_joined(row["distilled, 8-bit"] for row in copied)),
        percent(_joined(row["random real"] for row in copied)),
        percent(_heads_on(two, network, "all real images", None)),
    ]


def _heads_on(runs: list[Row], network: str, trained_on: str, pixels: str | None) -> list[float]:
    wanted = (trained_on, pixels)
    return _joined(
        row["accuracies"]
        for run in runs
        for row in run["rows"]
        if row["model"].endswith(network) and (row["trained_on"], row["pixels"]) == wanted
    )


def _joined(parts: Iterable[list[float]]) -> list[float]:
    return [value for part in parts for value in part]


def _minutes_of_heads(runs: list[Row]) -> str:
    """What the outer steps take, of the runs on a CPU."""
    taken = [run["seconds_per_step"] * run["steps"] for run in runs if run["device"] == "CPU"]
    return f"{statistics.median(taken) / 60:.0f}"


def beside_tools(report: Any) -> str:
    """Seconds and memory of a hypergradient by the engine and by two other tools."""
    cells = []
    for name, own in _by_network(report).items():
        ours = _ours(own)
        seconds = [f"{own[tool]['seconds']:.2f}" if tool in own else "" for tool in _OTHERS]
        ratio = with_range(ours["ratio_to_higher"], ours["ratios_to_higher"])
        memory = [f"{row['peak_bytes'] / 1e6:,.0f}" for row in (own["higher"], ours)]
        cells.append([name, *seconds, f"{ours['seconds']:.2f}", ratio, *memory])
    head = ["network", "`higher`, s", "TorchOpt, s", "dd_plugin, s", "times `higher`"]
    return table([*head, "`higher`, MB", "dd_plugin, MB"], cells, "lrrrrrr")


def beside_higher(report: Any) -> str:
    """The same for two networks and their longest unroll, as a list in words."""
    lines: dict[str, str] = {}
    for own in _by_network(report).values():
        ours, higher = _ours(own), own["higher"]
        name = next((name for name in _SUMMARIZED if ours["network"].startswith(name)), None)
        if name is not None:
            memory = ours["peak_bytes"] / higher["peak_bytes"]
            lines[name] = (
                f"- {ours['network']}, {ours['steps']} training steps: "
                f"{ours['ratio_to_higher']:.2f} of the time of `higher`, "
                f"{memory:.2f} of its memory"
            )
    return "\n".join(lines.values())


def _by_network(report: Any) -> dict[str, dict[str, Row]]:
    """The rows of every network and number of steps, by tool."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows_of(report):
        name = f"{row['network']}, {row['steps']} steps"
        found.setdefault(name, {})[row["tool"]] = row
    return found


def _ours(own: Mapping[str, Row]) -> Row:
    return next(own[tool] for tool in _OURS if tool in own)
