"""Tables of sets for the head of frozen networks, from the files of tests/benchmarks/heads.py."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

from dd_plugin.evaluation.training_images import OF_HEADS, TrainingImages
from rendering.markdown import percent, table

Row = dict[str, Any]
_DISTILLED, _ALL = TrainingImages.EIGHT_BIT.value, "all 6,000"
# How the tables call what heads were trained on, in order.
_TRAINED_ON = {
    (images.in_words, images.pixels): _ALL if images is TrainingImages.ALL else images.value
    for images in (TrainingImages.EIGHT_BIT, *OF_HEADS)
}
# The settings of the recipe; a table names those in which its runs differ.
_RECIPE = {
    "images_per_class": 1,
    "size": 112,
    "objective": "bilevel",
    "steps": 400,
    "trial": "recipe",
}


def one_image(report: Any) -> str:
    """One image per class: the distilled images beside real ones, over seeds."""
    # Of one image per class, herding and k-center choose the one nearest to the centroid.
    return _accuracies(runs_with(report), "nearest to the centroid", by_labels=True)


def ten_images(report: Any) -> str:
    """The same with ten images per class, beside the best choice of real ones."""
    return _accuracies(runs_with(report, images_per_class=10), "herding")


def other_size(report: Any) -> str:
    """The same as `one_image` with smaller images."""
    return _accuracies(runs_with(report, size=64), "nearest to the centroid")


def objectives(report: Any) -> str:
    """Both objectives by source and target, over the same seeds."""
    by_objective = {
        name: _by_target(runs_with(report, objective=name, labels="hard"))
        for name in ("bilevel", "gradient_matching")
    }
    rows = []
    for key, rival in by_objective["gradient_matching"].items():
        pair = [by_objective["bilevel"][key][_DISTILLED], rival[_DISTILLED]]
        both = min(map(len, pair))
        gain = 100 * (statistics.fmean(pair[0]) - statistics.fmean(pair[1]))
        rows.append([*key, both, *map(_percent, pair), f"{gain:+.1f}"])
    head = ["learned on", "tested on", "seeds", "bilevel", "gradient matching", "difference"]
    return table(head, rows, "llrrrr")


def trials(report: Any) -> str:
    """What was tried for networks that took no part: accuracies on each network, by trial."""
    found: dict[str, dict[str, list[float]]] = {}
    for run in report["runs"]:
        usual = {**_RECIPE, "trial": run["trial"], "steps": run["steps"]}
        if run["sources"] != "lite0, lite1" or any(run[k] != v for k, v in usual.items()):
            continue
        longer = f", {run['steps']:,} steps" if run["steps"] != _RECIPE["steps"] else ""
        what = found.setdefault(f"{run['trial']}{longer}", defaultdict(list))
        for (_, target), accuracies in _by_target([run]).items():
            what[target] += accuracies[_DISTILLED]
    targets = ["lite0", "lite1", "lite2"]
    rows = [
        [name, len(what[targets[0]]), *(_percent(what[target]) for target in targets)]
        for name, what in found.items()
    ]
    return table(["settings", "seeds", *targets], rows, "lrrrr")


def augmented(files: Any) -> str:
    """Heads trained on copies as well: by steps and network, beside the images alone."""
    plain = files["heads"]
    full = _by_target(runs_with(plain, labels="hard"))
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for one in files["heads-augmented"]["sets"]:
        # As `tests.benchmarks.heads` names folders.
        sources, _, _, _, _, _, steps, trial = one["set"].split("_")
        said = f"{int(steps):,} steps" + ("" if trial == "recipe" else f", {trial}")
        for row in one["rows"]:
            target = row["model"].rpartition("_")[2]
            what = found.setdefault((said, target), defaultdict(list))
            for name in (_DISTILLED, "random real", "herding"):
                what[name] += row[name]
            what[_ALL] += full[sources.replace("+", ", "), target][_ALL]
    rows = [
        [
            *key,
            len(what[_DISTILLED]),
            _percent(what[_DISTILLED]),
            f"{100 * statistics.fmean(what[_DISTILLED]) / statistics.fmean(what[_ALL]):.0f} %",
            _percent(what["random real"]),
            _percent(what["herding"]),
        ]
        for key, what in found.items()
    ]
    head = ["learned in", "tested on", "seeds", _DISTILLED, "of all", "random real", "herding"]
    return table(head, rows, "llrrrrr")


def runs_with(report: Any, **settings: Any) -> list[Row]:
    """The runs with the settings of the recipe but for these."""
    wanted = {**_RECIPE, **settings}
    return [run for run in report["runs"] if all(run[k] == v for k, v in wanted.items())]


def _by_target(runs: list[Row]) -> dict[tuple[str, str], dict[str, list[float]]]:
    """Accuracies by (sources, tested on) and by what heads were trained on."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for run in runs:
        for row in run["rows"]:
            name = _TRAINED_ON.get((row["trained_on"], row["pixels"]))
            key = (run["sources"], row["model"].rpartition("_")[2])
            if name is not None:
                found.setdefault(key, defaultdict(list))[name] += row["accuracies"]
    return found


def _accuracies(runs: list[Row], chosen: str, *, by_labels: bool = False) -> str:
    shown = ["random real", chosen]
    rows = []
    for labels in dict.fromkeys(run["labels"] for run in runs):
        of_labels = [run for run in runs if run["labels"] == labels]
        for (sources, target), by_name in _by_target(of_labels).items():
            distilled = by_name[_DISTILLED]
            share = statistics.fmean(distilled) / statistics.fmean(by_name[_ALL])
            said = [f"{sources}; {labels} labels"] if by_labels else [sources]
            rows.append(
                [
                    *said,
                    target,
                    len(distilled),
                    _percent(distilled),
                    f"{100 * share:.0f} % of {100 * statistics.fmean(by_name[_ALL]):.1f}",
                    *(_percent(by_name[name]) for name in shown),
                ]
            )
    head = ["learned on", "tested on", "seeds", _DISTILLED, f"of {_ALL}", *shown]
    return table(head, rows, "ll" + "r" * (len(head) - 2))


def _percent(values: list[float]) -> str:
    return percent(values).removesuffix(" %")


def cost(report: Any) -> str:
    """An outer step beside one pass of the network."""
    rows = [
        [
            f"{row['model']}, {row['size']} px",
            row["images"],
            row["head"] if row["head"] == "ridge" else f"{row['head_steps']} steps",
            row["how"],
            f"{row['seconds']:.2f}",
            f"{row['ratio']:.2f}",
            f"{row['peak_bytes'] / max(row['peak_bytes_of_a_pass'], 1):.2f}",
        ]
        for row in report["rows"]
    ]
    head = ["network", "images", "head", "precision", "s per step", "to a pass", "memory"]
    about = f"torch {report['torch']}, {report['processor']}, {report['threads']} thread."
    return f"{table(head, rows, 'lrllrrr')}\n\n{about}"
