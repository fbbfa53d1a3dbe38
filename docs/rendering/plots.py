"""Plots of the files in docs/results, each in two versions: for the light and the dark pages.

`NAME.json` gives `NAME.svg` and `NAME-dark.svg`. Nothing but the file decides what is drawn, and
the same file gives the same bytes with the same matplotlib.
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
from matplotlib.figure import Figure

from rendering.markdown import rows_of
from rendering.quality import by_case, by_setting, named, recipe_name, recipes, rest

# Colors that can be told apart by the color-blind (Okabe and Ito), on white and on near-black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c8c8c")
INKS = {"": "#333333", "-dark": "#c8ccd4"}


def draw_all(results: Path) -> Iterator[Path]:
    """Draws what there is; yields the files."""
    for source in sorted(results.glob("*.json")):
        for pattern, plot in PLOTS.items():
            if not fnmatch(source.stem, pattern):
                continue
            report = json.loads(source.read_text("utf-8"))
            for suffix, ink in INKS.items():
                with mpl.rc_context(style(ink, source.stem)):
                    figure = plot(report)
                    if figure is None:
                        continue
                    path = results / f"{source.stem}{suffix}.svg"
                    figure.savefig(path, metadata={"Date": None}, transparent=True)
                    pyplot.close(figure)
                    yield path


def style(ink: str, salt: str) -> dict[str, Any]:
    """Letters as text, lines and letters in one color, nothing behind them."""
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys(inked, ink),
        "axes.prop_cycle": mpl.cycler(color=COLOURS),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": ink,
        "grid.alpha": 0.15,
        "font.family": "sans-serif",
        "font.size": 11,
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "figure.constrained_layout.use": True,
    }


def hypergradient(report: Any) -> Figure | None:
    """The time of each tool as a multiple of that of `higher`, one line per network and K."""
    rows = [row for row in report["rows"] if "ratio_to_higher" in row]
    tools = [t for t in dict.fromkeys(r["tool"] for r in rows) if not t.startswith("plain")]
    cases = list(dict.fromkeys((row["network"], row["steps"]) for row in rows))
    if not cases:
        return None
    figure, axis = pyplot.subplots(figsize=(6.4, 1.4 + 0.5 * len(cases)))
    for tool, color in zip(tools, COLOURS, strict=False):
        points = [
            (row["ratio_to_higher"], cases.index((row["network"], row["steps"])))
            for row in rows
            if row["tool"] == tool
        ]
        axis.plot(*zip(*points, strict=True), "o", color=color, markersize=7, label=tool)
    axis.axvline(1, linewidth=1.5, color="gray")
    axis.set(xscale="log")
    figure.suptitle("Time of a hypergradient, times that of higher")
    ticks = (0.25, 0.5, 1, 2)
    axis.set_xticks(ticks, labels=[str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.set_yticks(range(len(cases)), labels=[f"{n}\nK = {k}" for n, k in cases])
    axis.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def distiller(report: Any) -> Figure:
    """Time and memory of an outer step, as multiples of the base case."""
    rows = report["rows"]
    base = rows[0]["peak_bytes"]
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 0.6 + 0.32 * len(rows)), sharey=True)
    names = [row["case"] for row in rows]
    for axis, values, title in (
        (axes[0], [row["ratio"] for row in rows], "time, times the base"),
        (axes[1], [row["peak_bytes"] / base for row in rows], "peak memory, times the base"),
    ):
        bars = axis.barh(names, values, color=COLOURS[0])
        axis.bar_label(bars, [f"{value:.2f}" for value in values], padding=3, fontsize=9)
        axis.set(title=title)
        axis.margins(x=0.15)
        axis.grid(visible=False, axis="y")
    axes[0].invert_yaxis()
    return figure


def cases(report: Any) -> Figure | None:
    """One point per seed and case, a line at their mean; a panel per setting of several cases."""
    every = by_setting([row for row in rows_of(report) if "case" in row])
    settings = {setting: rows for setting, rows in every.items() if len(by_case(rows)) > 2} or every
    if not settings:
        return None
    rows = [row for own in settings.values() for row in own]
    names = sorted(
        by_case(rows),
        key=lambda case: -max(statistics.fmean(a) for a in by_case(rows)[case]),
    )
    size = (4 + 3 * len(settings), 1.1 + 0.36 * len(names))
    figure, axes = pyplot.subplots(1, len(settings), figsize=size, sharey=True, squeeze=False)
    for axis, (setting, of_setting) in zip(axes[0], settings.items(), strict=True):
        own = by_case(of_setting)
        for place, case in enumerate(names):
            means = [100 * statistics.fmean(a) for a in own.get(case, [])]
            if means:
                axis.plot(means, [place] * len(means), "o", color=COLOURS[0], markersize=5)
                axis.plot([statistics.fmean(means)], [place], "|", color=COLOURS[1], markersize=16)
        title = f"{named(setting)}\n{rest(setting)}".replace("steps, ", "steps,\n", 1)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("accuracy, %")
    axes[0][0].set_yticks(range(len(names)), labels=names)
    axes[0][0].invert_yaxis()
    return figure


def curves(report: Any) -> Figure | None:
    """Accuracy on validation images over the minutes of every run, a color per recipe."""
    groups = recipes([run for run in rows_of(report) if "curve" in run])
    if not groups:
        return None
    figure, axis = pyplot.subplots(figsize=(9, 4.2))
    for number, group in enumerate(groups):
        color = COLOURS[number % len(COLOURS)]
        line = "-" if group[0]["init"] == "random" else "--"
        for index, run in enumerate(group):
            points = [(at["minutes"], 100 * at["accuracy"]) for at in run["curve"]]
            points.append((run["minutes"], 100 * run["results"]["distilled"]["mean"]))
            label = recipe_name(run) if index == 0 else None
            axis.plot(*zip(*points, strict=True), line, color=color, marker=".", label=label)
    axis.set(xlabel="minutes", ylabel="accuracy, %")
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    return figure


def ensembles(report: Any) -> Figure:
    """How much time batching takes of what one network after the other takes."""
    cases = report["cases"]
    names = [
        f"{c['size']}, {'compiled' if c['compiled'] else 'eager'}, {c['networks']} networks"
        for c in cases
    ]
    figure, axis = pyplot.subplots(figsize=(7, 0.8 + 0.36 * len(cases)))
    middle = [case["ratio"]["median"] for case in cases]
    spread = [
        [m - case["ratio"]["low"] for m, case in zip(middle, cases, strict=True)],
        [case["ratio"]["high"] - m for m, case in zip(middle, cases, strict=True)],
    ]
    axis.errorbar(middle, range(len(cases)), xerr=spread, fmt="o", color=COLOURS[0], capsize=3)
    axis.axvline(1, color=COLOURS[1], linewidth=1)
    axis.set_yticks(range(len(cases)), labels=names)
    axis.invert_yaxis()
    axis.set_xlabel("time of batched / sequential")
    return figure


def scale(report: Any) -> Figure:
    """Seconds and peak memory of an outer step against what grows, all axes logarithmic."""
    series = {
        "unroll": ("inner steps", lambda row: row["inner_steps"]),
        "images per class": ("images per class", lambda row: row["images_per_class"]),
        "resolution": ("height and width", lambda row: row["image"][0]),
    }
    figure, axes = pyplot.subplots(2, len(series), figsize=(9, 5), sharey="row")
    for column, (name, (label, size)) in zip(axes.T, series.items(), strict=True):
        sizes = (row for row in report["rows"] if row["table"] == "size")
        rows = [row for row in sizes if row["series"] == name]
        for storage in dict.fromkeys(row.get("storage", "device") for row in rows):
            own = [row for row in rows if row.get("storage", "device") == storage]
            own.sort(key=size)
            x = [size(row) for row in own]
            column[0].plot(x, [row["seconds"] for row in own], "o-", markersize=4, label=storage)
            column[1].plot(x, [row["peak_bytes"] / 1e6 for row in own], "o-", markersize=4)
        ticks = sorted({size(row) for row in rows})
        for axis in column:
            axis.set(xscale="log", yscale="log")
            axis.set_xticks(ticks, labels=[str(tick) for tick in ticks], fontsize=9)
            axis.minorticks_off()
        column[1].set_xlabel(label)
    axes[0][0].set_ylabel("seconds")
    axes[1][0].set_ylabel("peak memory, MB")
    axes[0][0].legend(fontsize=9)
    return figure


def profile(report: Any) -> Figure:
    """Shares of an outer step by group of functions, a bar per scale."""
    rows = [row for row in report["rows"] if row["table"] == "time"]
    scales = list(dict.fromkeys(row["scale"] for row in rows))
    groups = list(dict.fromkeys(row["group"] for row in rows))
    figure, axis = pyplot.subplots(figsize=(9, 1.2 + 0.45 * len(scales)))
    left = dict.fromkeys(scales, 0.0)
    for group in groups:
        shares = [
            100 * sum(r["share"] for r in rows if (r["scale"], r["group"]) == (name, group))
            for name in scales
        ]
        axis.barh(scales, shares, left=list(left.values()), label=group)
        left = {name: left[name] + share for name, share in zip(scales, shares, strict=True)}
    axis.set(xlabel="% of an outer step", xlim=(0, 100))
    axis.invert_yaxis()
    axis.grid(visible=False)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


PLOTS: dict[str, Callable[[Any], Figure | None]] = {
    "hypergradient-*": hypergradient,
    "distiller-*": distiller,
    "ensembles-*": ensembles,
    "policies-*": cases,
    "cifar10": cases,
    "cifar10-runs": curves,
    "mnist": curves,
    "scale-*": scale,
    "profile-*": profile,
}
