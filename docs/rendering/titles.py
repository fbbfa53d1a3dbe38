"""The message of each plot, computed from its file: its title, and its text for screen readers."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from typing import Any

from rendering.markdown import rows_of
from rendering.quality import by_case, by_setting, mean_accuracy, minutes, recipes

Row = dict[str, Any]
# In points of accuracy: what a table shows as 0.0.
NOTHING = 0.05
# What the trainer does by default, as the files of the treatments call it.
DEFAULT_CASE = "tracked, momentum and correction learned per layer"


def title_of(stem: str, report: Any) -> str:
    """The title of the plot of a file, or nothing where the file has no plot."""
    for pattern, title in TITLES.items():
        if fnmatch(stem, pattern):
            return title(report)
    return ""


def curves(report: Any) -> str:
    """What the best recipe reaches with the least and with the most storage."""
    best: dict[int, list[Row]] = {}
    for group in recipes(rows_of(report)):
        stored = group[0].get("stored_as", group[0]["images"])
        if stored not in best or mean_accuracy(group) > mean_accuracy(best[stored]):
            best[stored] = group
    chosen = [(stored, best[stored]) for stored in sorted({min(best), max(best)})]
    starts = {group[0]["init"] for _, group in chosen}
    said = []
    for stored, group in chosen:
        size = "small " if group[0]["images"] > stored else ""
        start = f" from a {group[0]['init']} start" if len(starts) > 1 else ""
        reached = f"{group[0]['images']} {size}images reach {100 * mean_accuracy(group):.1f} %"
        said.append(f"{reached} in {minutes(group)} minutes{start}")
    return ", ".join(said)


def controls(report: Any) -> str:
    """The most that whitening, soft labels or both gain over neither."""
    gains = []
    for rows in by_setting(rows_of(report)).values():
        means = {case: mean(found) for case, found in by_case(rows).items()}
        gains += [value - means["neither"] for case, value in means.items() if case != "neither"]
    if max(gains) < NOTHING:
        return "Neither whitening nor soft labels help in short runs"
    return f"Whitening and soft labels gain {max(gains):.1f} points at most in short runs"


def treatments(report: Any) -> str:
    """How far the default is ahead of InstanceNorm, and on how many seeds."""
    gains, ahead, seeds = [], 0, 0
    for rows in plotted(report).values():
        one = {(row["case"], row["seed"]): statistics.fmean(row["accuracies"]) for row in rows}
        found = by_case(rows)
        if DEFAULT_CASE not in found or "InstanceNorm" not in found:
            continue
        gains.append(mean(found[DEFAULT_CASE]) - mean(found["InstanceNorm"]))
        both = {seed for case, seed in one if case == DEFAULT_CASE}
        both &= {seed for case, seed in one if case == "InstanceNorm"}
        seeds += len(both)
        ahead += sum(one[DEFAULT_CASE, seed] > one["InstanceNorm", seed] for seed in both)
    return (
        f"BatchNorm as the trainer has it is {between(gains, 1)} points ahead of InstanceNorm, "
        f"on {ahead} of {seeds} seeds"
    )


def plotted(report: Any) -> dict[Any, list[Row]]:
    """The settings that are plotted: those with more than two cases, or all."""
    every = by_setting([row for row in rows_of(report) if "case" in row])
    return {setting: rows for setting, rows in every.items() if len(by_case(rows)) > 2} or every


def mean(found: list[list[float]]) -> float:
    """Percent on average over seeds, each of which is the mean of its networks."""
    return 100 * statistics.fmean(map(statistics.fmean, found))


def distiller(report: Any) -> str:
    """What the longest unroll costs in time and in memory."""
    base, *rows = report["rows"]
    longest = [row for row in rows if row["case"].startswith("unroll")][-1]
    steps = longest["case"].removeprefix("unroll ")
    return (
        f"{steps} inner steps for 20 take {longest['ratio']:.1f} times the time "
        f"and {longest['peak_bytes'] / base['peak_bytes']:.2f} times the memory"
    )


def ensembles(report: Any) -> str:
    """The best ratio of the small networks and the worst of the large ones."""
    ratios = {
        size: [case["ratio"]["median"] for case in report["cases"] if case["size"] == size]
        for size in ("small", "large")
    }
    return (
        f"Batched, small networks take {between(ratios['small'])} of the time, "
        f"large ones {between(ratios['large'])}"
    )


def hypergradient(report: Any) -> str:
    """Our fastest ways as multiples of `higher`."""
    ratios: dict[str, list[float]] = {"compiled": [], "bf16": []}
    compiled = {row["network"] for row in report["rows"] if row["tool"] == "compiled"}
    for row in report["rows"]:
        if row["network"] in compiled and row["tool"] in ratios and "ratio_to_higher" in row:
            ratios[row["tool"]].append(row["ratio_to_higher"])
    if not all(ratios.values()):
        return "The time of a hypergradient as a multiple of that of higher"
    return (
        f"A compiled ConvNet takes {between(ratios['compiled'])} of the time of higher, "
        f"in bfloat16 {between(ratios['bf16'])}"
    )


def scale(report: Any) -> str:
    """What the longest unroll costs beside the shortest."""
    rows = sorted(unrolls(report, "recompute"), key=lambda row: row["inner_steps"])
    short, long = rows[0], rows[-1]
    steps, seconds, memory = (
        long[key] / short[key] for key in ("inner_steps", "seconds", "peak_bytes")
    )
    return (
        f"With recompute, {steps:.0f} times the inner steps take {seconds:.0f} times the time "
        f"and {memory:.1f} times the memory"
    )


def unrolls(report: Any, storage: str) -> list[Row]:
    """The rows of the length of the unroll, with one storage."""
    sizes = [row for row in report["rows"] if row["table"] == "size"]
    return [row for row in sizes if (row["series"], row.get("storage")) == ("unroll", storage)]


def profile(report: Any) -> str:
    """The range of the largest group's share over the scales."""
    shares: dict[str, float] = {}
    for row in report["rows"]:
        if row["table"] == "time" and row["group"] == "backward":
            shares[row["scale"]] = shares.get(row["scale"], 0) + 100 * row["share"]
    return f"The backward pass is {between(shares.values(), 0)} % of an outer step"


def gpu_accuracy(report: Any) -> str:
    """The best accuracy, and how long it took."""
    best = max(evaluated(report), key=lambda row: row["accuracy_mean"])
    return (
        f"100 images of CIFAR-10 reach {100 * best['accuracy_mean']:.1f} % "
        f"in {best['seconds'] / 60:.0f} minutes of an H200"
    )


def evaluated(report: Any) -> list[Row]:
    """The rows of a GPU's accuracies that have one."""
    return [row for row in report["rows"] if "accuracy_mean" in row]


def between(values: Iterable[float], digits: int = 2) -> str:
    """The least and the greatest, once where they read the same."""
    listed = list(values)
    ends = [f"{end:.{digits}f}" for end in (min(listed), max(listed))]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


TITLES: dict[str, Callable[[Any], str]] = {
    "hypergradient-*": hypergradient,
    "distiller-*": distiller,
    "ensembles-*": ensembles,
    "policies-*": treatments,
    "cifar10": controls,
    "cifar10-runs": curves,
    "mnist": curves,
    "scale-*": scale,
    "profile-*": profile,
    "gpu-good": gpu_accuracy,
}
