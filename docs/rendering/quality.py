"""Tables of accuracies: recipes, cases over seeds, and the selection on the start page."""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rendering.markdown import captioned, percent, rows_of, table

Row = dict[str, Any]
Setting = tuple[tuple[str, Any], ...]
CONVNET = "dd_convnet"
DEFAULT_INNER_LR = 0.02
ACCURACY_OF_CASES = "Accuracy on validation images, mean ± spread over seeds (number of seeds)."
# What a run came to, and what tells it from others under the same settings.
OUTCOMES = {"case", "seed", "accuracies", "skipped_steps", "seconds", "networks", "compile"}
# What the files call a case -> what a reader sees.
CASES = {
    "tracked, momentum and correction learned per layer": "the default: tracked, learned per layer",
    "the first, with a term of eval mode in the inner loss": "the default, eval mode in the loss",
    "tracked, also normalised with in training": "tracked, also used in training",
    "TaskNorm: batch and image blended": "TaskNorm: batch and image",
}
# What the record of a run calls its baselines -> what a table does.
BASELINES = {"random real": "as many random real images", "full data": "all real images"}
# The same where there is little room.
SHORT = {"random real": "random real", "full data": "all real"}
# Data set -> its name in prose.
NAMES = {
    "digits": "digits (8x8)",
    "mnist": "MNIST",
    "cifar10-runs": "CIFAR-10",
}


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
        name = recipe_name(row)
        key = json.dumps([name, *(row.get(field) for field in same)], sort_keys=True)
        found[key].append(row)
    return list(found.values())


def recipe_name(row: Row) -> str:
    """The name of a run without its seed."""
    return str(row["run"]).partition("_seed")[0]


def accuracy(runs: list[Row], trained_on: str = "distilled") -> str:
    """Of one run the mean and spread of its networks; of several those of the runs' means."""
    results = [run["results"][trained_on] for run in runs if trained_on in run["results"]]
    if len(results) > 1:
        return percent([result["mean"] for result in results])
    return percent(results[0]["accuracies"]) if results else ""


def minutes(runs: list[Row]) -> str:
    """What a run takes by its log; without one its outer steps over their median speed."""
    found = [
        run.get("minutes", run["outer_steps"] / run["outer_steps_per_second"] / 60) for run in runs
    ]
    return f"{statistics.median(found):.0f}"


def norm(row: Row) -> str:
    """The kind of normalization that a run's arguments name."""
    kind = str(row["model_args"].get("norm_layer", ""))
    if row["statistics"]:
        return f"BatchNorm, {row['statistics']}"
    names = {"instancenorm2d": "InstanceNorm", "groupnorm": "GroupNorm", "none": "none"}
    if row["network"].endswith("dd_convnet"):
        kind = kind or "instancenorm2d"
    return names.get(kind, kind)


def number_of_images(row: Row) -> str:
    """How many images, and how many of full size take their storage where they are smaller."""
    stored = row.get("stored_as", row["images"])
    return f"{row['images']}" + ("" if stored == row["images"] else f", stored as {stored}")


def runs(report: Any) -> str:
    """One line per recipe, in two tables: what it reaches, and what it is and how fast."""
    groups = recipes(rows_of(report))
    there = [name for name in BASELINES if any(name in run["results"] for g in groups for run in g)]
    reached, speeds = [], []
    for group in groups:
        first = group[0]
        reached.append(
            [
                recipe_name(first),
                number_of_images(first),
                accuracy(group),
                *(accuracy(group, name) for name in there),
                len(group),
                minutes(group),
            ]
        )
        speed, images, memory = (
            statistics.median(run[key] for run in group)
            for key in ("outer_steps_per_second", "images_per_second", "peak_memory_mb")
        )
        speeds.append(
            [
                recipe_name(first),
                described(first),
                first["init"],
                f"{first['inner_steps']} x {first['outer_steps']:,}",
                f"{speed:.2f}",
                f"{images:,.0f}",
                f"{memory:,.0f} MB",
            ]
        )
    head = ["recipe", "images", "accuracy", *(SHORT[name] for name in there), "runs", "minutes"]
    about = (
        "Accuracy on validation images beside networks trained on real images; ± is over runs, or "
        "over the networks of a single run."
    )
    of_speeds = ["recipe", "network", "start", "inner x outer steps", "outer steps/s", "images/s"]
    of_speeds += ["memory"]
    first_table = captioned(about, table(head, reached, "l" + "r" * (len(head) - 1)))
    second = table(of_speeds, speeds, "lllrrrr")
    about = "What each recipe trains, and its speed and peak memory on one core."
    return f"{first_table}\n\n{captioned(about, second)}"


def selection(reports: Mapping[str, Any]) -> str:
    """For the start page: of every data set, start, number of images, network the best recipe."""
    best: dict[tuple[str, ...], list[Row]] = {}
    for name, report in reports.items():
        if name == "published":
            continue
        for group in recipes(rows_of(report)):
            first = group[0]
            key = (NAMES[name], first["init"], number_of_images(first), described(first))
            if key not in best or mean_accuracy(group) > mean_accuracy(best[key]):
                best[key] = group
    head = ["data", "images", "accuracy", SHORT["random real"], "published", "minutes"]
    head += ["network, start"]
    published = rows_of(reports["published"]) if "published" in reports else []
    cells = [
        [
            data,
            images,
            accuracy(group),
            accuracy(group, "random real"),
            beside(published, data, init, group[0]),
            minutes(group),
            f"{network}, {init}",
        ]
        for (data, init, images, network), group in best.items()
    ]
    return table(head, cells, "lrrrrrl")


def mean_accuracy(runs: list[Row]) -> float:
    """Of what networks reach on the distilled images, over all runs."""
    return statistics.fmean(run["results"]["distilled"]["mean"] for run in runs)


def beside(published: list[Row], data: str, init: str, run: Row) -> str:
    """The figure of other work for as many stored images of the same data, with its source."""
    stored = run.get("stored_as", run["images"])
    for row in published:
        if (row["data"], row["init"], row["stored_as"]) == (data, init, stored):
            return f"{row['accuracy']} % ([{row['name']}]({row['url']}))"
    return ""


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


def architectures(report: Any) -> str:
    """One line per network: what a distilled set and as many random real images teach it."""
    columns = {
        ("distilled images", "exact"): "distilled images",
        ("distilled images", "png"): "their 8-bit files",
        ("random real images", None): "as many random real images",
        ("all real images", None): "all real images",
    }
    found: dict[tuple[str, str], dict[Any, list[float]]] = defaultdict(dict)
    how: dict[tuple[str, str], str] = {}
    for row in rows_of(report):
        key = (row["set"], row["model"])
        found[key][row["trained_on"], row["pixels"]] = row["accuracies"]
        if row["trained_on"] == "distilled images":
            how[key] = row["protocol"]
    there = [key for key in columns if any(key in own for own in found.values())]
    head = ["set", "network", "trained", *(columns[key] for key in there)]
    trained = {"recipe": "by the recipe", "standard": "as on real images"}
    cells = [
        [
            Path(name).name,
            model.removeprefix("timm/"),
            trained[how[name, model]],
            *(percent(own[key]) if key in own else "" for key in there),
        ]
        for (name, model), own in found.items()
    ]
    counts = sorted({len(values) for own in found.values() for values in own.values()})
    of = " to ".join(dict.fromkeys(map(str, (counts[0], counts[-1]))))
    tabled = table(head, cells, "lll" + "r" * len(there))
    return f"{tabled}\n\nMeans and standard deviations of {of} networks."


def described(row: Row) -> str:
    """Network and normalization."""
    network = row["network"].removeprefix("timm/")
    return f"{network}, {norm(row)}" if norm(row) else network


def cases(report: Mapping[str, Any]) -> str:
    """Cases under equal settings: a column per setting with many, a line per setting with two."""
    every = by_setting(rows_of(report))
    many = {setting: by_case(rows) for setting, rows in every.items() if len(by_case(rows)) > 2}
    few = {setting: by_case(rows) for setting, rows in every.items() if setting not in many}
    parts: list[str] = []
    notes: list[str] = []
    if many:
        longest = max(many.values(), key=len)
        names = dict.fromkeys(case for found in many.values() for case in found)
        order = sorted(names, key=lambda case: -over(longest.get(case, [])))
        cells = [[called(case), *(cell(found, case) for found in many.values())] for case in order]
        tabled = table(["treatment", *map(named, many)], cells, "l" + "r" * len(many))
        parts.append(captioned(ACCURACY_OF_CASES, tabled))
        notes += [f"{named(setting)}: {rest(setting)}" for setting in many]
    if few:
        counts = Counter(case for found in few.values() for case in found)
        order = [case for case, _ in counts.most_common()]
        cells = [
            [f"{named(setting)}; {rest(setting)}", *(cell(found, case) for case in order)]
            for setting, found in few.items()
        ]
        about = "The same for settings with two treatments." if many else ACCURACY_OF_CASES
        tabled = table(["setting", *map(called, order)], cells, "l" + "r" * len(order))
        parts.append(captioned(about, tabled))
    within = [100 * statistics.stdev(row["accuracies"]) for row in rows_of(report) if several(row)]
    if within:
        low, high = min(within), max(within)
        said = f"networks of one set differ by {low:.1f} to {high:.1f} points"
        notes.append(f"{said} (standard deviation)")
    if notes:
        said = "; ".join(notes)
        parts.append(f"{said[0].upper()}{said[1:]}.")
    return "\n\n".join(parts)


def several(row: Row) -> bool:
    """A case that several networks were trained for."""
    return len(row["accuracies"]) > 1


def cell(found: Mapping[str, list[list[float]]], case: str) -> str:
    """The accuracy of a case over its seeds, and how many there are."""
    return f"{over_seeds(found[case])} ({len(found[case])})" if case in found else ""


def over(found: list[list[float]]) -> float:
    """The mean over seeds, for sorting; of no seed the least."""
    return statistics.fmean(map(statistics.fmean, found)) if found else -1.0


def over_seeds(found: list[list[float]]) -> str:
    """Mean and spread of the seeds' means; of one seed the mean of its networks."""
    return percent([statistics.fmean(accuracies) for accuracies in found])


def by_setting(rows: list[Row]) -> dict[Setting, list[Row]]:
    """Rows that can be compared: all but the case, the seed and what came out is the same."""
    found: dict[Setting, list[Row]] = defaultdict(list)
    for row in rows:
        found[tuple((key, row[key]) for key in sorted(row) if key not in OUTCOMES)].append(row)
    return dict(sorted(found.items(), key=lambda pair: str(pair[0])))


def named(setting: Setting) -> str:
    """Network, start, normalization and images per class, as far as a setting says."""
    values = dict(setting)
    parts = [network_of(values)] if network_of(values) != CONVNET else []
    parts += [f"{values['init']} start"] if "init" in values else []
    parts += [values["norm"]] if "norm" in values else []
    per_class = values["images_per_class"]
    return ", ".join([*parts, f"{per_class} image{'s' * (per_class > 1)} per class"])


def network_of(values: Mapping[str, Any]) -> str:
    """What the table scripts trained; `cifar10.py` knows one network and does not name it."""
    return str(values.get("network", CONVNET))


def rest(setting: Setting) -> str:
    """The numbers of a setting that `named` leaves out."""
    values = dict(setting)
    texts = {"steps": "outer step", "inner_steps": "inner step"}
    parts = [
        f"{values[key]:,} {text}{'' if values[key] == 1 else 's'}"
        for key, text in texts.items()
        if key in values
    ]
    if values.get("inner_lr", DEFAULT_INNER_LR) != DEFAULT_INNER_LR:
        parts.append(f"step sizes from {values['inner_lr']:g}")
    if values.get("inner_momentum"):
        parts.append(f"momentum {values['inner_momentum']:g}")
    return ", ".join([*parts, *([f"width {values['width']}"] if "width" in values else [])])


def by_case(rows: list[Row]) -> dict[str, list[list[float]]]:
    """Accuracies of every seed, by treatment."""
    found: dict[str, list[list[float]]] = defaultdict(list)
    for row in rows:
        found[row["case"]].append(row["accuracies"])
    return found


def called(case: str) -> str:
    """A case as plots and tables call it."""
    return CASES.get(case, case)


def five_tasks(report: Any) -> str:
    """Accuracies on all classes so far, after each task."""
    rows = rows_of(report)
    counts = range(len(rows[0]["tasks"]))
    head = ["set", "training", *(f"{2 * task + 2} classes" for task in counts)]
    cells = [[row["way"], row["training"], *map(percent, row["tasks"])] for row in rows]
    settings = report["settings"]
    about = (
        f"{report['hardware']}, torch {report['torch']}, {report['minutes']} minutes in all; "
        f"{settings['images_per_class']} images per class, {settings['networks']} networks each."
    )
    return f"{table(head, cells, 'll' + 'r' * len(counts))}\n\n{about}"


def windows(report: Any) -> str:
    """Windows at equal seconds: the mean accuracy of each seed's networks, over seeds."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows_of(report):
        setting = (row["data"], row["images_per_class"], row["inner_steps"], row["window_length"])
        groups[(*setting, row["seconds"], row["window"])].append(row)
    cells = []
    for (data, images, steps, length, seconds, window), rows in groups.items():
        accuracy = percent([statistics.mean(row["accuracies"]) for row in rows])
        outer = statistics.mean(row["outer_steps"] for row in rows)
        place = f"{length} of {steps}"
        cells.append([data, images, place, f"{seconds:,.0f}", window, f"{outer:,.0f}", accuracy])
    head = ["data", "images per class", "window", "seconds", "place", "outer steps", "accuracy"]
    return f"{table(head, cells, 'lrlrlrr')}\n\n{report['hardware']}, torch {report['torch']}."
