"""Tables of sets for the head of frozen networks, from the files of tests/benchmarks/heads.py."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

from rendering.markdown import table

Row = dict[str, Any]
# How the table calls what heads were trained on, in order.
_TRAINED_ON = {
    ("distilled images", "png"): "distilled, 8-bit",
    ("random real images", None): "random real",
    ("real images nearest to the centroid", None): "nearest to the centroid",
    ("real images by herding", None): "herding",
    ("real images by k-center", None): "k-center",
    ("all real images", None): "all 6,000",
}


def accuracies(report: Any) -> str:
    """Per source, kind of labels and target: the distilled images beside real ones, over seeds."""
    found: dict[tuple[Any, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    steps: set[int] = set()
    for run in report["runs"]:
        steps.add(run["steps"])
        for row in run["rows"]:
            name = _TRAINED_ON.get((row["trained_on"], row["pixels"]))
            if name is not None:
                found[_key(run, row)][name] += row["accuracies"]
    rows = []
    for key, by_name in found.items():
        full = statistics.fmean(by_name["all 6,000"])
        distilled = by_name["distilled, 8-bit"]
        others = [_percent(by_name[name]) for name in list(_TRAINED_ON.values())[1:]]
        share = f"{100 * statistics.fmean(distilled) / full:.0f} %"
        rows.append([*key, len(distilled), _percent(distilled), share, *others])
    head = ["learned on", "how", "per class", "tested on", "seeds", "distilled, 8-bit", "of all"]
    shown = table([*head, *list(_TRAINED_ON.values())[1:]], rows, "lllrrrrrrrrr")
    said = f"torch {report['runs'][-1]['torch']}, "
    return f"{said}{', '.join(map(str, sorted(steps)))} outer steps.\n\n{shown}"


def _key(run: Row, row: Row) -> tuple[str, str, int, str]:
    how = f"{run['labels']} labels"
    if run["objective"] != "bilevel":
        how = "gradient matching"
    return run["sources"], how, run["images_per_class"], row["model"].rpartition("_")[2]


def _percent(values: list[float]) -> str:
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{spread}"


def cost(report: Any) -> str:
    """An outer step beside one pass of the network."""
    rows = [
        [
            row["model"],
            row["size"],
            row["images"],
            row["head"] if row["head"] == "ridge" else f"{row['head_steps']} steps",
            row["how"],
            f"{row['seconds']:.2f}",
            f"{row['ratio']:.2f}",
            f"{row['peak_bytes'] / max(row['peak_bytes_of_a_pass'], 1):.2f}",
        ]
        for row in report["rows"]
    ]
    head = ["network", "pixels", "images", "head", "precision", "s per step", "to a pass", "memory"]
    about = f"torch {report['torch']}, {report['processor']}, {report['threads']} thread."
    return f"{about}\n\n{table(head, rows, 'lrrllrrr')}"
