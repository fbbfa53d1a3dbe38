"""Table and plot of a result file of `tests.benchmarks.hypergradient`, for the documentation.

    python -m tests.benchmarks.hypergradient_report RESULTS.json PLOT.svg PAGE.md

puts the table between the markers of the page and draws time and memory against the number of inner
steps.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.benchmarks.layers import write_page

HEADER = (
    "| network, optimizer | K | tool | seconds | times plain | times higher | peak MB "
    "| error | in float64 | warm-up s |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def table(rows: list[dict]) -> str:
    """One line per case, in the order of network, optimizer and steps."""
    lines = [HEADER]
    ordered = sorted(rows, key=lambda r: (r["model"], r["optimizer"] == "adam", r["steps"]))
    for row in ordered:
        case = f"| {row['model']}, {row['optimizer']} | {row['steps']} | {row['tool']} | "
        if "error" in row:
            lines.append(case + f"{row['error']} | | | | | | |")
            continue
        cells = [
            f"{row['seconds']:.2f}",
            ratio(row, "plain"),
            ratio(row, "higher"),
            f"{row['peak_bytes'] / 1e6:.0f}",
            error(row, "error_against_autograd"),
            error(row, "error_in_float64"),
            f"{row['warm_up_seconds']:.0f}",
        ]
        lines.append(case + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratio(row: dict, other: str) -> str:
    """The median over the rounds, and the least and the greatest."""
    if f"ratio_to_{other}" not in row:
        return ""
    low, high = row[f"ratios_to_{other}"]
    return f"{row[f'ratio_to_{other}']:.2f} ({low:.2f}-{high:.2f})"


def error(row: dict, name: str) -> str:
    return f"{row[name]:.0e}" if name in row and row["tool"] != "autograd" else ""


def plot(rows: list[dict], path: Path) -> None:
    """Median seconds and peak memory against K, ConvNet with SGD, both axes logarithmic."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "hypergradient"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    chosen = [r for r in rows if (r["model"], r["optimizer"]) == ("convnet", "sgd")]
    for tool in sorted({r["tool"] for r in chosen}):
        points = sorted(
            (r["steps"], r["seconds"], r["peak_bytes"] / 1e9)
            for r in chosen
            if r["tool"] == tool and "error" not in r
        )
        if not points:
            continue
        steps, seconds, memory = zip(*points, strict=True)
        style = "--" if tool.startswith("plain") else "-"
        axes[0].plot(steps, seconds, style, marker="o", label=tool)
        axes[1].plot(steps, memory, style, marker="o", label=tool)
    for axis, label in zip(axes, ("seconds", "peak memory, GB"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="inner steps K", ylabel=label)
        axis.set_xticks([5, 10, 20, 40], labels=["5", "10", "20", "40"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    results, target, page = map(Path, sys.argv[1:4])
    report = json.loads(results.read_text())
    about, rows = report["about"], report["rows"]
    rounds = sorted({row["rounds"] for row in rows if "rounds" in row})
    setting = (
        f"torch {about['torch']}, {about['device']} ({about['processor']}), "
        f"{about['threads']} threads, {rounds[0]} to {rounds[-1]} rounds."
    )
    write_page(page, f"{setting}\n\n{table(rows)}")
    plot(rows, target)


if __name__ == "__main__":
    main()
