"""Tables of the profile, of the loop with higher, of scale and of the plan for ImageNet-1k."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rendering.markdown import captioned, table, with_range


def _origin(report: Any) -> str:
    return f"torch {report['torch']}, {report['hardware']}."


def _shares(report: Any, kind: str, name: Callable[[Any], str]) -> tuple[list[str], list[Any]]:
    """Head and rows of a table of shares: what by scale, the largest of the first scale first."""
    rows = [row for row in report["rows"] if row["table"] == kind]
    scales = list(dict.fromkeys(row["scale"] for row in rows))
    found = {(row["scale"], name(row)): row["share"] for row in rows}
    names = list(dict.fromkeys(name(row) for row in rows))
    cells = [
        [n, *(f"{100 * found[s, n]:.1f} %" if (s, n) in found else "" for s in scales)]
        for n in names
    ]
    return ["", *map(short, scales)], cells


def short(scale: str) -> str:
    """A scale without its number of steps, and without the ConvNet, which the page tells."""
    return scale.partition(", T = ")[0].partition(", ConvNet")[0]


def profile_time(reports: Any) -> str:
    """Shares of an outer step by function, and its seconds."""
    report = reports["profile-cpu"]
    head, cells = _shares(report, "time", lambda row: f"{row['group']}: {row['item']}")
    total = dict.fromkeys(head[1:], 0.0)
    for row in report["rows"]:
        if row["table"] == "time":
            total[short(row["scale"])] += row["seconds"]
    cells.append(["seconds of the step", *(f"{seconds:.2f}" for seconds in total.values())])
    return f"{table(head, cells, 'l' + 'r' * len(total))}\n\n{_origin(report)}"


def profile_operations(reports: Any) -> str:
    """Shares of an outer step by kind of operation."""
    head, cells = _shares(reports["profile-cpu"], "operations", lambda row: row["kind"])
    return table(head, cells, "l" + "r" * (len(head) - 1))


def profile_removed(reports: Any) -> str:
    """The trainer as it is, over the trainer with a removed item, a column per scale."""
    report = reports["profile-cpu"]
    rows = [row for row in report["rows"] if row["table"] == "removed"]
    scales = dict.fromkeys(short(row["scale"]) for row in rows)
    ratios = {
        (row["item"], short(row["scale"])): with_range(row["ratio"], row["ratios"]) for row in rows
    }
    cells = [
        [item, *(ratios.get((item, scale), "") for scale in scales)]
        for item in dict.fromkeys(row["item"] for row in rows)
    ]
    tabled = table(["put back", *scales], cells, "l" + "r" * len(scales))
    return f"{tabled}\n\n{_origin(report)}"


def two_trees(report: Any) -> str:
    """Hypergradients by one checkout over those by another."""
    head = ["network", "steps are run", "images", "seconds before", "now", "now over before"]
    cells = []
    for row in report["rows"]:
        low, high = row["quartiles"]
        seconds = [f"{row['seconds'][which]:.2f}" for which in ("before", "now")]
        ratio = f"{row['ratio']:.2f} ({low:.2f}-{high:.2f})"
        cells.append([row["network"], row["how"], str(row["images"]), *seconds, ratio])
    return table(head, cells, "llrrrr")


def kept_memory(report: Any) -> str:
    """Hypergradients with freed memory kept and without."""
    head = ["network", "images", "seconds without", "with", "ratio", "page faults", "peak memory"]
    cells = []
    for row in report["rows"]:
        seconds = [f"{row['seconds'][which]:.2f}" for which in ("without", "with")]
        faults = " to ".join(f"{row['faults'][which]:,.0f}" for which in ("without", "with"))
        ratio, memory = with_range(row["ratio"], row["ratios"]), f"{row['memory_ratio']:.2f}"
        cells.append([row["network"], str(row["images"]), *seconds, ratio, faults, memory])
    return f"{table(head, cells, 'lrrrrrr')}\n\n{_origin(report)}"


def start_up(report: Any) -> str:
    """Seconds of the processor to the help, an error and the first outer step, before and now."""
    cells = []
    for row in report["rows"]:
        times = [
            f"{row['cpu'][which]:.2f}" if which in row["cpu"] else "" for which in ("before", "now")
        ]
        ratio = with_range(row["ratio"], row["ratios"]) if "ratio" in row else ""
        cells.append([row["what"], *times, ratio])
    return f"{table(['until', 'before', 'now', 'ratio'], cells, 'lrrr')}\n\n{_origin(report)}"


def closing_comparison(report: Any) -> str:
    """The comparison at the end of a run by one checkout and by another."""
    head = [
        "run",
        "checkout",
        "steps s",
        "comparison s",
        "share",
        "random: steps, s",
        "all: steps, s",
    ]
    cells = []
    for row in report["rows"]:
        kinds = [f"{row[f'{kind} steps']:.0f}, {row[kind]:.0f}" for kind in ("random", "all")]
        steps = row["steps"] + row["evaluations"]
        share = f"{100 * row['share']:.0f} %"
        seconds = [f"{steps:,.0f}", f"{row['closing']:,.0f}", share]
        cells.append([row["case"], row["checkout"], *seconds, *kinds])
    return f"{table(head, cells, 'llrrrrr')}\n\n{_origin(report)}"


def kept_activations(report: Any) -> str:
    """Hypergradients with all activations kept and with none."""
    head = ["network", "steps are", "images", "inner steps", "seconds", "ratio", "MB kept"]
    cells = []
    for row in report["rows"]:
        counts = [str(row[name]) for name in ("images", "steps")]
        seconds = " to ".join(f"{row['seconds'][which]:.2f}" for which in ("none", "all"))
        ratio, kept = with_range(row["ratio"], row["ratios"]), f"{row['kept_bytes'] / 1e6:.0f}"
        cells.append([row["network"], row["how"], *counts, seconds, ratio, kept])
    return f"{table(head, cells, 'llrrrrr')}\n\n{_origin(report)}"


def layouts(report: Any) -> str:
    """Hypergradients with contiguous tensors and with channels last."""
    head = ["network", "steps are", "precision", "contiguous, s", "channels last, s", "ratio"]
    cells = []
    for row in report["rows"]:
        seconds = [f"{row['seconds'][which]:.2f}" for which in ("contiguous", "channels_last")]
        ratio = with_range(row["ratio"], row["ratios"])
        cells.append([row["network"], row["how"], row["precision"], *seconds, ratio])
    return f"{table(head, cells, 'lllrrr')}\n\n{_origin(report)}"


def compile_choice(report: Any) -> str:
    """Whole runs traced, compiled and with ``compile: auto``."""
    head = ["run", "compile", "outer steps", "minutes", "seconds per step at the end"]
    head += ["compiled from step", "steps measured"]
    cells = []
    for row in report["rows"]:
        choice, since = row["choice"], "1" if row["compile"] == "inductor" else "never"
        if choice is not None and choice["compile"] == "inductor":
            since = str(choice["from_step"] + 1)
        minutes, step = f"{row['seconds'] / 60:.1f}", f"{row['seconds_per_step']:.2f}"
        steps, measured = str(row["steps"]), str(row["measured_steps"])
        cells.append([row["case"], row["way"], steps, minutes, step, since, measured])
    return f"{table(head, cells, 'llrrrrr')}\n\n{_origin(report)}"


def higher(report: Any) -> str:
    """The trainer beside a loop with higher."""
    cells = []
    for row in report["rows"]:
        if "error" in row:
            cells.append([row["setting"], row["tool"], row["error"], "", "", "", ""])
            continue
        errors = row.get("error_in_float64", {})
        cells.append(
            [
                row["setting"],
                row["tool"],
                f"{row['seconds']:.2f}",
                with_range(row["ratio_to_higher"], row["ratios_to_higher"]),
                f"{row['peak_bytes'] / 1e6:.0f}",
                f"{row['warm_up_seconds']:.0f}",
                f"{max(errors.values()):.0e}" if errors else "",
            ]
        )
    head = ["setting", "tool", "seconds", "times higher", "peak MB"]
    head += ["first step s", "difference in float64"]
    return f"{table(head, cells, 'llrrrrr')}\n\n{_origin(report)}"


def sizes(series: str, column: str) -> Callable[[Any], str]:
    """The table of a series of `tests.benchmarks.scale`."""

    def render(reports: Any) -> str:
        report = reports["scale-cpu"]
        cells = []
        for row in report["rows"]:
            if row["table"] != "size" or row["series"] != series:
                continue
            first = f"{row['image'][0]} x {row['image'][0]}" if column == "image" else row[column]
            storage = [row["storage"]] if series == "unroll" else []
            cells.append(
                [
                    first,
                    *storage,
                    f"{row['seconds']:.2f}",
                    f"{1e3 * row['seconds_per_inner_step']:.0f}",
                    with_range(row["peak_bytes"] / 1e6, [p / 1e6 for p in row["peaks"]], 0),
                    f"{row['trajectory_bytes'] / 1e6:.1f}",
                ]
            )
        storage = ["storage"] if series == "unroll" else []
        head = [series, *storage, "seconds", "ms per inner step", "peak MB", "trajectory MB"]
        return f"{table(head, cells, 'r' + 'l' * len(storage) + 'rrrr')}\n\n{_origin(report)}"

    return render


def processes(reports: Any) -> str:
    """Speed of one and of two processes."""
    cells = [
        [
            row["processes"],
            f"{row['inner_steps_per_second']:.1f}",
            with_range(row["ratio_to_one"], row["ratios_to_one"])
            if row["processes"] > 1
            else f"{row['ratio_to_one']:.2f}",
            row["rounds"],
        ]
        for row in reports["scale-cpu"]["rows"]
        if row["table"] == "processes"
    ]
    return table(["processes", "inner steps per second", "times one", "rounds"], cells, "rrrr")


def pages(reports: Any) -> str:
    """The largest sizes with large pages over the same without."""
    cells = [
        [
            f"{row['image'][0]} x {row['image'][0]}, {row['images_per_class']} per class",
            f"{row['seconds_without']:.1f}",
            f"{row['seconds']:.1f}",
            with_range(row["ratio"], row["ratios"]),
            f"{row['memory_ratio']:.2f}",
            row["rounds"],
        ]
        for row in reports["scale-cpu"]["rows"]
        if row["table"] == "pages"
    ]
    head = ["size", "seconds without", "seconds with", "ratio", "ratio of peak memory", "rounds"]
    return table(head, cells, "lrrrrr")


def plan(report: Any) -> str:
    """The plan for ImageNet-1k: what it takes by number of GPUs, and what a step of it is."""
    hours, steps = [], {}
    for row in report["rows"]:
        slow, fast = row["outer_steps_per_hour"]
        low, high = row["hours"]
        hours.append(
            [
                row["plan"],
                row["gpus"],
                f"{low:,.0f}-{high:,.0f}",
                f"{slow:,.0f}-{fast:,.0f}",
                f"{row['networks_per_hour'][0]:,.0f}-{row['networks_per_hour'][1]:,.0f}",
            ]
        )
        steps[row["plan"]] = [
            row["plan"],
            f"{row['run']} / {row['window']}",
            f"{row['batch']} / {row['real_batch']}",
            f"{row['forward_flops'] / 1e9:.2f}",
            f"{row['flops_per_outer_step'] / 1e15:.2f}",
            f"{row['memory_bytes'] / 1e9:.0f}" + ("" if row["fits"] else " (too much)"),
        ]
    head = ["plan", "GPUs", "hours", "outer steps per hour", "networks per hour"]
    about = "Hours of each plan by the number of GPUs, computed, not measured."
    first = captioned(about, table(head, hours, "lrrrr"))
    head = ["plan", "run / window", "inner / real batch", "forward, GFLOP per image"]
    head += ["PFLOP per step and GPU", "GB per GPU"]
    second = captioned(
        "What one outer step of each plan is.", table(head, steps.values(), "lrrrrr")
    )
    return f"{first}\n\n{second}"
