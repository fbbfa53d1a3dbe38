"""Tables of comparisons at equal seconds: ways of distilling, and changed recipes."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from typing import Any

from rendering.markdown import made_on, percent, rows_of, table

# What a network of `tests.benchmarks.transfer` is called on the page.
_NETWORKS = {"convnet": "ConvNet, its own", "resnet18": "ResNet-18", "convnext": "ConvNeXt"}
_NETWORKS |= {"vit": "ViT"}


def transfer(report: Any) -> str:
    """Sets by the networks that were trained on them: mean and spread over seeds and networks."""
    rows = rows_of(report)
    networks = list(dict.fromkeys(row["network"] for row in rows))
    scores: dict[tuple[str, str], list[float]] = defaultdict(list)
    seeds: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        scores[row["set"], row["network"]] += row["accuracies"]
        seeds[row["set"]].add(row["seed"])
    cells = [
        [name, len(seeds[name]), *(_percent(scores[name, network]) for network in networks)]
        for name in seeds
    ]
    head = ["set", "seeds", *(_NETWORKS.get(name, name) for name in networks)]
    return f"{table(head, cells, 'l' + 'r' * (len(head) - 1))}\n\n{made_on(report)}"


def _percent(scores: list[float]) -> str:
    return percent(scores) if scores else ""


def recipe_changes(report: Any) -> str:
    """Changes of a recipe, each for the same seconds of a core."""
    cells = [
        [
            _settings(row["changes"]),
            f"{row['outer_steps']:,}",
            percent(row["accuracies"]),
        ]
        for row in rows_of(report)
    ]
    head = ["changed", "outer steps", "accuracy"]
    return f"{table(head, cells, 'lrr')}\n\n{made_on(report)}"


def window_gradients(report: Any) -> str:
    """Gradients of windows and of the whole training, and what a step along each does."""
    cells = [
        [
            row["data"],
            _part(row["window"], row["steps"]),
            f"{row['seconds']:.1f}",
            f"{row['cosine_of_halves']:.2f}",
            f"{row['longest_over_median']:.1f}",
            _change(row["changes"]),
        ]
        for row in rows_of(report)
    ]
    head = ["data", "differentiated", "seconds", "cosine of halves", "longest", "loss"]
    return f"{table(head, cells, 'llrrrr')}\n\n{made_on(report)}"


def _part(window: int, steps: int) -> str:
    return f"all {steps} steps" if window == steps else f"{window} of {steps}"


def _change(changes: list[float]) -> str:
    spread = statistics.stdev(changes) if len(changes) > 1 else 0.0
    return f"{statistics.fmean(changes):+.3f} ± {spread:.3f}"


def _settings(changes: str) -> str:
    settings = json.loads(changes)
    named = [f"`{name}` {_value(value)}" for name, value in settings.items()]
    return ", ".join(named) or "nothing"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return str(value)
