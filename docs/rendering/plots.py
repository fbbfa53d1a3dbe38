"""Plots of the files in docs/results, each in two versions: for the light and the dark pages.

`NAME.json` gives `NAME.svg` and `NAME-dark.svg`. Nothing but the file decides what is drawn, and
the same file gives the same bytes with the same matplotlib. The title of a plot is its message
(`titles`); how a plot is laid out is in `drawing`.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rendering.drawing import COLORS, MARKERS, ROW, colors, column, name_ends, named_rows, style
from rendering.markdown import rows_of
from rendering.quality import by_case, called, named, recipe_name, recipes, rest
from rendering.titles import evaluated, mean, plotted, title_of, unrolls

# Accuracies above this are drawn by what is missing to 100 %.
NEARLY_ALL = 0.9
# Curves that a panel holds apart.
FEW = 6


def draw_all(results: Path) -> Iterator[Path]:
    """Draws what there is; yields the files."""
    for source in sorted(results.glob("*.json")):
        for pattern, plot in PLOTS.items():
            if not fnmatch(source.stem, pattern):
                continue
            report = json.loads(source.read_text("utf-8"))
            for suffix in COLORS:
                with mpl.rc_context(style(suffix, source.stem)):
                    figure = plot(report, title_of(source.stem, report))
                    if figure is None:
                        continue
                    path = results / f"{source.stem}{suffix}.svg"
                    figure.savefig(path, metadata={"Date": None}, transparent=True)
                    pyplot.close(figure)
                    yield path


def hypergradient(report: Any, title: str) -> Figure | None:
    """The time of each tool as a multiple of that of `higher`, one row per network and K."""
    rows = [row for row in report["rows"] if "ratio_to_higher" in row]
    tools = [t for t in dict.fromkeys(r["tool"] for r in rows) if not t.startswith("plain")]
    cases = list(dict.fromkeys((row["network"], row["steps"]) for row in rows))
    if not cases:
        return None
    figure, (axis,) = column(title, [1.2 + ROW * len(cases)])
    for tool, color, marker in zip(tools, colors(), MARKERS, strict=False):
        points = [
            (row["ratio_to_higher"], cases.index((row["network"], row["steps"])))
            for row in rows
            if row["tool"] == tool
        ]
        axis.plot(*zip(*points, strict=True), marker, color=color, markersize=7, label=tool)
    axis.axvline(1, linewidth=1.5, color="gray")
    axis.set(xscale="log", xlabel="time, times that of higher")
    ticks = (0.25, 0.5, 1, 2)
    axis.set_xticks(ticks, labels=[str(tick) for tick in ticks])
    axis.minorticks_off()
    named_rows(axis, [f"{network}, K = {steps}" for network, steps in cases])
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def distiller(report: Any, title: str) -> Figure:
    """Time and memory of an outer step, as multiples of the base case."""
    rows = report["rows"]
    base = rows[0]["peak_bytes"]
    figure, axes = column(title, [0.4 + 0.26 * len(rows)] * 2)
    names = [row["case"] for row in rows]
    for axis, values, what in (
        (axes[0], [row["ratio"] for row in rows], "time, times that of the base"),
        (
            axes[1],
            [row["peak_bytes"] / base for row in rows],
            "peak memory, times that of the base",
        ),
    ):
        bars = axis.barh(names, values, color=colors()[0])
        axis.bar_label(bars, [f"{value:.2f}" for value in values], padding=3)
        axis.set_title(what)
        axis.margins(x=0.18)
        axis.grid(visible=False, axis="y")
        axis.invert_yaxis()
    return figure


def cases(report: Any, title: str) -> Figure | None:
    """One point per seed and case, a line at their mean; a panel per setting of several cases."""
    settings = plotted(report)
    if not settings:
        return None
    counts = [len(by_case(rows)) for rows in settings.values()]
    figure, axes = column(title, [0.75 + ROW * count for count in counts])
    for axis, (setting, rows) in zip(axes, settings.items(), strict=True):
        found = by_case(rows)
        names = sorted(found, key=lambda case: -mean(found[case]))
        for place, case in enumerate(names):
            means = [100 * statistics.fmean(accuracies) for accuracies in found[case]]
            axis.plot(means, [place] * len(means), "o", color=colors()[0], markersize=6)
            axis.plot([mean(found[case])], [place], "|", color=colors()[1], markersize=16)
        values = [f"{mean(found[case]):.1f}" for case in names]
        named_rows(axis, [called(case) for case in names], values)
        axis.set_title(f"{named(setting)}\n{rest(setting)}")
        axis.margins(x=0.08)
    axes[-1].set_xlabel("accuracy, % (points: seeds; line: mean)")
    return figure


def curves(report: Any, title: str) -> Figure | None:
    """Accuracy on validation images over minutes, a panel per start.

    Where the runs of a panel would hide each other, it shows one of each recipe.
    """
    groups = recipes([run for run in rows_of(report) if "curve" in run])
    starts = list(dict.fromkeys(group[0]["init"] for group in groups))
    if not groups:
        return None
    height = 3.0
    figure, axes = column(title, [height] * len(starts))
    for axis, start in zip(axes, starts, strict=True):
        own = [group for group in groups if group[0]["init"] == start]
        ends = []
        few = sum(map(len, own)) <= FEW
        for group, color in zip(own, colors(), strict=False):
            for run in group if few else group[-1:]:
                points = [(at["minutes"], 100 * at["accuracy"]) for at in run["curve"]]
                points.append((run["minutes"], 100 * run["results"]["distilled"]["mean"]))
                axis.plot(*zip(*points, strict=True), color=color, marker=".")
            words = recipe_name(group[0]).split("_")[1:]
            ends.append((*points[-1], " ".join(w for w in words if w not in (start, "cpu")), color))
        axis.set_xscale("log")
        if max(run["results"]["distilled"]["mean"] for group in own for run in group) > NEARLY_ALL:
            by_what_is_missing(axis)
        axis.set(title=f"{start} start", ylabel="accuracy, %")
        time_axis(axis, "minutes of one core")
        name_ends(axis, ends, 0.75 * height)
    return figure


def by_what_is_missing(axis: Axes) -> None:
    """Accuracies, in percent, by the logarithm of what is missing to 100."""
    import numpy as np

    low, high = axis.get_ylim()
    functions = (lambda y: -np.log10(np.maximum(100 - y, 0.1)), lambda v: 100 - 10.0 ** (-v))
    axis.set_yscale("function", functions=functions)
    axis.set_ylim(low, min(high, 99))
    ticks = [tick for tick in (10, 50, 70, 80, 90, 95, 97, 98, 99) if low <= tick <= high]
    axis.set_yticks(ticks, labels=[str(tick) for tick in ticks])


def time_axis(axis: Axes, label: str) -> None:
    """Plain numbers on a logarithmic axis of time."""
    low, high = axis.get_xlim()
    every = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 400)
    ticks = [tick for tick in every if low <= tick <= high]
    axis.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel(label)


def ensembles(report: Any, title: str) -> Figure:
    """How much time batching takes of what one network after the other takes."""
    cases = report["cases"]
    names = [
        f"{c['size']}, {'compiled' if c['compiled'] else 'eager'}, {c['networks']} networks"
        for c in cases
    ]
    figure, (axis,) = column(title, [0.6 + ROW * len(cases)])
    middle = [case["ratio"]["median"] for case in cases]
    spread = [
        [m - case["ratio"]["low"] for m, case in zip(middle, cases, strict=True)],
        [case["ratio"]["high"] - m for m, case in zip(middle, cases, strict=True)],
    ]
    axis.errorbar(middle, range(len(cases)), xerr=spread, fmt="o", color=colors()[0], capsize=3)
    axis.axvline(1, color=colors()[1], linewidth=1.5)
    named_rows(axis, names, [f"{value:.2f}" for value in middle])
    axis.set_xlabel("time batched over time one by one")
    return figure


def scale(report: Any, title: str) -> Figure:
    """Seconds and peak memory of an outer step against inner steps, all axes logarithmic."""
    height = 2.1
    figure, axes = column(title, [height] * 2, share=True)
    for axis, key, unit, label in (
        (axes[0], "seconds", 1, "seconds"),
        (axes[1], "peak_bytes", 1e6, "peak memory, MB"),
    ):
        ends = []
        for storage, color, marker in zip(("device", "recompute"), colors(), MARKERS, strict=False):
            rows = sorted(unrolls(report, storage), key=lambda row: row["inner_steps"])
            points = [(row["inner_steps"], row[key] / unit) for row in rows]
            axis.plot(*zip(*points, strict=True), f"{marker}-", color=color, markersize=5)
            ends.append((*points[-1], storage, color))
        axis.set(xscale="log", yscale="log", ylabel=label)
        name_ends(axis, ends, 0.8 * height)
        ticks = {"seconds": (0.1, 1, 10), "peak_bytes": (10, 20, 50)}[key]
        axis.set_yticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
    steps = [row["inner_steps"] for row in unrolls(report, "device")]
    axes[-1].set_xticks(steps, labels=[f"{step}" for step in steps])
    axes[-1].set_xlabel("inner steps")
    return figure


def profile(report: Any, title: str) -> Figure:
    """Shares of an outer step by group of functions, a bar per scale; small groups are one."""
    rows = [row for row in report["rows"] if row["table"] == "time"]
    scales = list(dict.fromkeys(row["scale"] for row in rows))
    shown = ("backward", "inner run", "outer loss")
    figure, (axis,) = column(title, [1.0 + 0.62 * len(scales)])
    for place, name in enumerate(scales):
        left = 0.0
        shares = dict.fromkeys((*shown, "all else"), 0.0)
        for row in rows:
            if row["scale"] == name:
                shares[row["group"] if row["group"] in shown else "all else"] += 100 * row["share"]
        for (group, share), color in zip(
            shares.items(), (*colors()[:3], colors()[-1]), strict=True
        ):
            label = group if place == 0 else None
            axis.barh([place], [share], left=[left], height=0.5, color=color, label=label)
            if share >= 7:
                middle = left + share / 2
                white = {"color": "white" if mpl.rcParams["text.color"] == "#333333" else "#111111"}
                axis.text(middle, place, f"{share:.0f}", ha="center", va="center", **white)
            left += share
    named_rows(axis, scales)
    axis.set(xlabel="% of an outer step", xlim=(0, 100))
    axis.grid(visible=False)
    figure.legend(loc="outside lower center", ncols=4, columnspacing=1, handlelength=0.9)
    return figure


def gpu_accuracy(report: Any, title: str) -> Figure:
    """Accuracy over the seconds of distilling, a color per recipe."""
    height = 3.2
    figure, (axis,) = column(title, [height])
    rows, ends = evaluated(report), []
    names = dict.fromkeys(row["case"]["recipe"] for row in rows)
    for name, color, marker in zip(names, colors(), MARKERS, strict=False):
        points = sorted(
            (row["seconds"], 100 * row["accuracy_mean"])
            for row in rows
            if row["case"]["recipe"] == name
        )
        axis.plot(*zip(*points, strict=True), marker, color=color, markersize=5)
        ends.append((*points[-1], name.partition("_")[0], color))
    axis.set(xscale="log", ylabel="accuracy, %")
    time_axis(axis, "seconds of distilling")
    name_ends(axis, ends, 0.8 * height)
    return figure


PLOTS: dict[str, Callable[[Any, str], Figure | None]] = {
    "hypergradient-*": hypergradient,
    "distiller-*": distiller,
    "ensembles-*": ensembles,
    "policies-*": cases,
    "cifar10": cases,
    "cifar10-runs": curves,
    "mnist": curves,
    "scale-*": scale,
    "profile-*": profile,
    "gpu-good": gpu_accuracy,
}
