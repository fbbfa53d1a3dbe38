"""Tables of time, memory and exactness, from the files of tests/benchmarks and tests/bilevel."""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from rendering.markdown import made_on, table, with_range

# How much of the original's time a converted layer may take: by pass, eager and compiled.
LAYER_AIMS = {"train": (1.3, 1.05), "eval": (1.1, 1.1), "inference": (1.1, 1.1)}
# Stages of a set's life, as tests/benchmarks/hub.py times them -> as the table names them.
HUB_STAGES = {
    "write": "write the folder",
    "push": "push",
    "push_again": "push again, nothing new",
    "snapshot": "download the folder",
    "read": "from_pretrained",
    "load": "load_dataset",
    "stream": "stream, first image",
}


def machine(about: dict[str, Any]) -> str:
    """Versions and hardware, as far as a file has them."""
    named = [
        f"{name} {about[key]}"
        for name, key in (("Python", "python"), ("torch", "torch"), ("timm", "timm"))
        if key in about
    ]
    device = about.get("device", "cpu")
    processor = about.get("processor", "")
    if device != "cpu":
        named.append(device)
    elif processor:
        named.append(processor)
    for key in ("cores", "threads", "rounds"):
        if key in about:
            named.append(f"{about[key]} {key if about[key] != 1 else key[:-1]}")
    return ", ".join(named) + "."


def distiller(report: Any) -> str:
    """An outer step of the trainer, and what changes its cost."""
    cells = [
        [r["case"], f"{r['seconds']:.2f}", f"{r['ratio']:.2f}", f"{r['peak_bytes'] / 1e6:.0f}"]
        for r in report["rows"]
    ]
    head = ["case", "seconds per outer step", "times the base", "peak MB"]
    return f"{table(head, cells, 'lrrr')}\n\n{machine(report['about'])}"


def hub(report: Any) -> str:
    """Seconds of every stage, a column per number of images."""
    rows = report["rows"]
    cells = [
        [name, *(f"{row['seconds'][stage]:.2f} s" for row in rows)]
        for stage, name in HUB_STAGES.items()
    ]
    cells.append(["size of the folder", *(f"{row['bytes'] / 1e6:.1f} MB" for row in rows)])
    head = ["", *(f"{row['images']:,} images" for row in rows)]
    tabled = table(head, cells, "l" + "r" * len(rows))
    return f"{tabled}\n\n{machine(report['environment'])}"


def ensembles(report: Any) -> str:
    """Several networks, one after the other and batched."""
    modes = ("sequential", "batched")
    cells = [
        [
            f"{case['size']}, {'compiled' if case['compiled'] else 'eager'}",
            case["networks"],
            *(f"{case['seconds'][mode]:.2f} s" for mode in modes),
            spread(case["ratio"], 2),
            *(f"{case['peak_bytes'][mode] / 1e6:,.0f}" for mode in modes),
        ]
        for case in report["cases"]
    ]
    sizes = "; ".join(
        f"{name}: width {s['width']}, {s['images']} inner and {s['outer']} outer images of "
        f"{s['side']} x {s['side']} x {s['channels']}, K = {s['steps']}"
        for name, s in report["sizes"].items()
    )
    threads = sorted({case["threads"] for case in report["cases"]})
    about = {**report["environment"], "threads": ", ".join(map(str, threads))}
    rounds = [case["rounds"] for case in report["cases"]]
    head = ["size, steps", "networks", "sequential", "batched", "batched / sequential"]
    head += ["MB, sequential", "MB, batched"]
    said = f"Sizes: {sizes}. {min(rounds)} to {max(rounds)} rounds. {machine(about)}"
    return f"{table(head, cells, 'lrrrrrr')}\n\n{said}"


def layers(report: Any) -> str:
    """Converted models beside the original, by processor time where there is one."""
    cases = report["cases"]
    rounds = [case["rounds"] for case in cases]
    settings = sorted({(c["batch"], c["image"], c["threads"], c["device_name"]) for c in cases})
    described = "; ".join(
        f"batches of {batch} at {image} x {image}, threads: {threads}, {device}"
        for batch, image, threads, device in settings
    )
    about = (
        f"{machine(report['environment'])[:-1]}; {described}; {min(rounds)} to {max(rounds)} "
        "rounds per case."
    )
    clock = "cpu" if all(case["device"] == "cpu" for case in cases) else "wall"
    return f"{layers_table(cases, clock)}\n\n{about}"


def layers_table(cases: list[dict[str, Any]], clock: str) -> str:
    """One line per case: the original's time, and the ratios to it with their quartiles."""
    variants = ("original again", "learned", "tracked")
    cells = [
        [
            case["model"],
            f"{case['pass']}, {'compiled' if case['compiled'] else 'eager'}",
            f"{1000 * case['seconds']['original'][clock]:.1f} ms",
            *(spread(case["ratios"][name][clock], 3) for name in variants),
            f"≤ {LAYER_AIMS[case['pass']][case['compiled']]:g}",
        ]
        for case in cases
    ]
    return table(["model", "pass", "original", *variants, "aim"], cells, "llrrrrr")


def spread(ratio: dict[str, float], digits: int) -> str:
    """Median and quartiles."""
    return with_range(ratio["median"], (ratio["low"], ratio["high"]), digits)


def hypergradient(report: Any) -> str:
    """The engine beside other tools: one line per network, number of steps and tool."""
    cells = []
    for row in report["rows"]:
        case = [f"{row['network']}, K = {row['steps']}", row["tool"]]
        if "error" in row:
            cells.append([*case, row["error"], "", "", "", ""])
            continue
        above = row.get("ratio_to_convolutions")
        cells.append(
            [
                *case,
                f"{row['seconds']:.2f}",
                between(row, "higher"),
                "" if above is None else f"{above:.2f}",
                f"{row['peak_bytes'] / 1e6:.0f}",
                f"{row['warm_up_seconds']:.0f}",
            ]
        )
    head = ["network", "tool", "seconds", "times higher", "times its convolutions"]
    head += ["peak MB", "warm-up s"]
    rounds = sorted({row["rounds"] for row in report["rows"] if "rounds" in row})
    said = " to ".join(dict.fromkeys(str(end) for end in (rounds[0], rounds[-1])))
    about = f"{report['hardware']}, torch {report['torch']}, {said} rounds."
    return f"{table(head, cells, 'llrrrrr')}\n\n{about}"


def first_hour(report: Any) -> str:
    """First runs on one's own images, with nothing but the data given."""
    cells = []
    for row in report["rows"]:
        picture = row["minutes_to_first_picture"]
        minutes = (row["minutes_to_end_of_run"], row["minutes_to_end"])
        cells.append(
            [
                row["case"],
                "" if picture is None else f"{picture:.1f}",
                *(f"{value:.1f}" for value in minutes),
                f"{row['longest_silence_seconds']:.0f}",
            ]
        )
    head = ["data", "min to a picture", "min to the set", "min to the table", "silent, s"]
    return f"{table(head, cells, 'lrrrr')}\n\n{made_on(report)}"


def one_pixel(report: Any) -> str:
    """Convolutions to one pixel, by torch and as products."""
    cells = [
        [
            row["layer"],
            row["images"],
            row["pass"],
            *(f"{value:.2f}" for value in row["milliseconds"]),
            with_range(row["ratio"], row["ratios"]),
        ]
        for row in report["rows"]
    ]
    head = ["layer", "images", "pass", "torch, ms", "product, ms", "ratio"]
    return f"{table(head, cells, 'lrlrrr')}\n\n{made_on(report)}"


def tutorials(report: Any) -> str:
    """Pages that were run as they are printed."""
    cells = [
        [Path(row["page"]).stem, f"{row['minutes']:.1f}", row["ran"], len(row["left_out"])]
        for row in report["rows"]
    ]
    head = ["page", "minutes", "blocks run", "left out"]
    return f"{table(head, cells, 'lrrr')}\n\n{made_on(report)}"


def kernel_gradients(report: Any) -> str:
    """Sums of two gradients of a kernel by two convolutions and by one."""
    cells = [
        [
            row["layer"],
            row["images"],
            *(f"{value:.2f}" for value in row["milliseconds"]),
            with_range(row["ratio"], row["ratios"]),
            "one" if row["is_taken"] else "two",
        ]
        for row in report["rows"]
    ]
    head = ["layer", "images", "two, ms", "one, ms", "ratio", "a trace has"]
    return f"{table(head, cells, 'lrrrrl')}\n\n{made_on(report)}"


def products(report: Any) -> str:
    """Products of matrices, by torch and by oneDNN: the layouts of a product in one line."""
    by_name: dict[str, list[Any]] = {}
    for row in report["rows"]:
        by_name.setdefault(row["product"], []).append(row)
    cells = []
    for name, rows in by_name.items():
        milliseconds = [
            statistics.median(row["milliseconds"][way] for row in rows) for way in (0, 1)
        ]
        ratios = [row["ratio"] for row in rows]
        cells.append(
            [
                name,
                "x".join(str(size) for size in rows[0]["sizes"]),
                *(f"{value:.3f}" for value in milliseconds),
                with_range(statistics.median(ratios), [min(ratios), max(ratios)]),
            ]
        )
    head = ["product", "sizes", "torch, ms", "oneDNN, ms", "ratio"]
    return f"{table(head, cells, 'llrrr')}\n\n{made_on(report)}"


def step_graphs(report: Any) -> str:
    """Functions of a step as two graphs and as one, and with products added in one pass."""
    cells = [
        [
            f"{row['network']}, {row['how']}",
            row["what"],
            *(f"{value:.1f}" for value in row["milliseconds"]),
            with_range(row["ratio"], row["ratios"]),
        ]
        for row in report["rows"]
    ]
    head = ["network", "what", "before or apart, ms", "so, ms", "ratio"]
    return f"{table(head, cells, 'llrrr')}\n\n{made_on(report)}"


def between(row: dict[str, Any], other: str) -> str:
    """A ratio's median over the rounds, and its least and greatest."""
    if f"ratio_to_{other}" not in row:
        return ""
    return with_range(row[f"ratio_to_{other}"], row[f"ratios_to_{other}"])


def exactness(report: Any) -> str:
    """The worst error for every value of every option, two columns per way to compute."""
    options, cases = report["options"], report["cases"]
    worst: dict[tuple[str, str, str], float] = defaultdict(float)
    count: dict[tuple[str, str, str], int] = defaultdict(int)
    for *case, error in cases:
        for option, value in [("all", ""), *zip(options[:-1], case[:-1], strict=True)]:
            key = (option, value, case[-1])
            worst[key], count[key] = max(worst[key], error), count[key] + 1
    ways = sorted({case[-2] for case in cases}, key=("eager traced compiled").find)
    head = ["option", "value"]
    for way in ways:
        head += [f"{way}: cases", "worst error"]
    cells = []
    places = {option: place for place, option in enumerate(["all", *options])}
    values = dict.fromkeys((option, value) for option, value, _ in worst)
    for option, value in sorted(values, key=lambda pair: places[pair[0]]):
        row = [option, value]
        for way in ways:
            n = count[option, value, way]
            row += [f"{n:,}", f"{worst[option, value, way]:.1e}" if n else ""]
        cells.append(row)
    return f"{table(head, cells, 'll' + 'rr' * len(ways))}\n\ntorch {report['torch']}, float64."


# The ways in which a case of the fuzz is run, and what each is compared with the whole graph for.
FUZZ_WAYS = {
    "mixed": "`mixed`",
    "reverse": "`reverse`",
    "traced": "`mixed`, traced",
    "batched": "`mixed`, two networks batched",
    "plain": "forward run against a plain loop",
}


def fuzz(report: Any) -> str:
    """The number of random cases, and the worst error of every way to run them."""
    status = report["status"]
    counted = ", ".join(
        f"{status.get(name, 0):,} {name}" for name in ("passed", "failed", "refused")
    )
    lines = []
    refused: dict[str, int] = defaultdict(int)
    for why, times in report["refusals"].items():
        refused[why.split(":")[0]] += times
    cells = [
        [FUZZ_WAYS[way], f"{found['cases']:,}", f"{found['worst']:.1e}", f"{refused[way]:,}"]
        for way, found in sorted(
            report["ways"].items(), key=lambda pair: list(FUZZ_WAYS).index(pair[0])
        )
    ]
    lines += [table(["run as", "cases", "worst error", "refused"], cells, "lrrr"), ""]
    lines += [
        f"{report['count']:,} random cases: {counted}. The worst error is {report['worst']:.1e}. "
        f"In {report['sensitive']:,} cases a tensor is left out of the worst error, since the "
        "whole graph itself moves by more than the tolerance when weights move by 10⁻¹² of "
        f"themselves. torch {report['torch']}, float64."
    ]
    return "\n".join(lines)
