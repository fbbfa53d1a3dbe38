"""Fills the tables of the README and of docs/ from docs/results/*.json, and draws the plots.

    python docs/results_to_pages.py           # tables, and the plots if matplotlib is installed
    python docs/results_to_pages.py --check   # only says which tables are stale; exit code 1 then

Measurements are made elsewhere (examples/reproduce, tests/benchmarks) and end in a JSON file; this
is the one place that turns such files into what readers see. A table stands on a page between
`<!-- NAME -->` and `<!-- /NAME -->`; `BLOCKS` says from which file, by which function, and
which command wrote that file. A file that is missing leaves the page as it is: an error, unless the
page says between the markers that nothing was measured yet.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rendering import costs, gpu, heads, markdown, quality, scaling, start

ROOT = Path(__file__).resolve().parents[1]
NOT_YET = "*Not measured yet.*"


@dataclass(frozen=True)
class Block:
    """A kind of table.

    Attributes:
        name: between its markers; may be a pattern, `policies-*`.
        render: from the content of the JSON file to Markdown.
        command: what wrote the file, where it does not say so itself.
        files: stems of the JSON files; by default the name. Of several, those that are there.
        plot: what the plot beside the file shows, if there is one.

    A file with a value `by_hand` is one that no command wrote: what others published.
    """

    name: str
    render: Callable[[Any], str]
    command: str
    files: tuple[str, ...] = ()
    plot: str = ""


COLLECT = "examples/reproduce/collect.py"
CURVES = "Accuracy on validation images over the minutes of every run"
SEEDS = "Accuracy of every seed, by case"
PROFILE = "python -m tests.benchmarks.where_time_goes"
SCALE = "python -m tests.benchmarks.scale"
HEADS = "python -m tests.benchmarks.heads"
GPU = "python -m tests.gpu"
HYPERGRADIENT = "python -m tests.benchmarks.hypergradient"


def of_file(stem: str, render: Callable[[Any], str]) -> Callable[[Any], str]:
    """A table of one file that has another name than the table."""
    return lambda files: render(files[stem])


BLOCKS = (
    Block(
        "results",
        start.results,
        COLLECT,
        ("digits", "mnist", "cifar10-runs", "heads", "heads-augmented"),
    ),
    Block(
        "results-published",
        quality.selection,
        COLLECT,
        ("digits", "mnist", "cifar10-runs", "published"),
    ),
    *(
        Block(name, of_file("hypergradient-cpu", render), HYPERGRADIENT, ("hypergradient-cpu",))
        for name, render in (
            ("beside-higher", start.beside_higher),
            ("beside-tools", start.beside_tools),
        )
    ),
    Block("baselines", quality.baselines, COLLECT, ("digits",)),
    Block("digits", quality.runs, COLLECT),
    Block("mnist", quality.runs, COLLECT, plot=CURVES),
    Block("cross-architecture", quality.architectures, "dd-plugin evaluate"),
    Block("cifar10-runs", quality.runs, COLLECT, plot=CURVES),
    Block("cifar10", quality.cases, "examples/reproduce/cifar10.py", plot=SEEDS),
    Block("policies-*", quality.cases, "examples/reproduce/batchnorm_policies.py", plot=SEEDS),
    Block(
        "distiller-cpu",
        costs.distiller,
        "python -m tests.benchmarks.distiller",
        plot="Time and memory of an outer step as multiples of the base case",
    ),
    Block("hub-cpu", costs.hub, "python -m tests.benchmarks.hub"),
    Block(
        "ensembles-cpu",
        costs.ensembles,
        "python -m tests.benchmarks.ensembles",
        plot="Time of a batched call over that of a sequential one",
    ),
    Block("layers", costs.layers, "python -m tests.benchmarks.layers"),
    Block(
        "hypergradient-cpu",
        costs.hypergradient,
        HYPERGRADIENT,
        plot="Time of a hypergradient by each tool, as a multiple of that of higher",
    ),
    Block("five-tasks", quality.five_tasks, "examples/growing_set.py"),
    Block("windows", quality.windows, "python -m tests.benchmarks.windows"),
    Block("first-hour", costs.first_hour, "python -m tests.benchmarks.first_hour"),
    Block("step-graphs", costs.step_graphs, "python -m tests.benchmarks.step_graphs"),
    Block("one-pixel", costs.one_pixel, "python -m tests.benchmarks.one_pixel"),
    Block("exactness", costs.exactness, "python -m tests.bilevel.grid --all"),
    Block(
        "exactness-compiled",
        costs.exactness,
        "python -m tests.bilevel.grid --all --path compiled",
    ),
    Block("fuzz", costs.fuzz, "python -m tests.bilevel.fuzz"),
    Block(
        "profile-time",
        scaling.profile_time,
        PROFILE,
        ("profile-cpu",),
        plot="Shares of an outer step by group of functions, at each scale",
    ),
    Block("profile-operations", scaling.profile_operations, PROFILE, ("profile-cpu",)),
    Block("profile-removed", scaling.profile_removed, PROFILE, ("profile-cpu",)),
    Block("two-trees", scaling.two_trees, "python -m tests.benchmarks.two_trees"),
    Block(
        "kept-activations", scaling.kept_activations, "python -m tests.benchmarks.kept_activations"
    ),
    Block("layouts", scaling.layouts, "python -m tests.benchmarks.layouts"),
    Block("compile-choice", scaling.compile_choice, "python -m tests.benchmarks.compile_choice"),
    Block("kept-memory", scaling.kept_memory, "python -m tests.benchmarks.kept_memory"),
    Block("start-up", scaling.start_up, "python -m tests.benchmarks.start_up"),
    Block(
        "closing-comparison",
        scaling.closing_comparison,
        "python -m tests.benchmarks.closing_comparison",
    ),
    Block("higher-cpu", scaling.higher, "python -m tests.benchmarks.higher_loop"),
    Block(
        "scale-unroll",
        scaling.sizes("unroll", "inner_steps"),
        SCALE,
        ("scale-cpu",),
        plot="Seconds and peak memory against inner steps, images per class and resolution",
    ),
    Block(
        "scale-images",
        scaling.sizes("images per class", "images_per_class"),
        SCALE,
        ("scale-cpu",),
    ),
    Block("scale-resolution", scaling.sizes("resolution", "image"), SCALE, ("scale-cpu",)),
    Block("scale-pages", scaling.pages, SCALE, ("scale-cpu",)),
    Block("scale-processes", scaling.processes, SCALE, ("scale-cpu",)),
    Block("imagenet-plan", scaling.plan, "python -m tests.benchmarks.imagenet_plan"),
    Block("gpu-right", gpu.right, GPU),
    *(
        Block(f"heads-{name}", of_file("heads", render), HEADS, ("heads",))
        for name, render in (
            ("one", heads.one_image),
            ("ten", heads.ten_images),
            ("size", heads.other_size),
            ("objectives", heads.objectives),
            ("trials", heads.trials),
        )
    ),
    Block(
        "heads-augmented",
        heads.augmented,
        "python -m tests.benchmarks.augmented_heads",
        ("heads-augmented", "heads"),
    ),
    Block(
        "heads-recipe",
        start.recipe_of_heads,
        "python -m tests.benchmarks.augmented_heads",
        ("heads-augmented", "heads"),
    ),
    Block("head-step", heads.cost, "python -m tests.benchmarks.head_step"),
    Block("gpu-fast", gpu.fast, GPU),
    Block("gpu-good", gpu.accuracy, GPU),
    Block("gpu-recorded", of_file("gpu-fast", gpu.recorded), GPU, ("gpu-fast",)),
    Block("*", markdown.generic, "tests/benchmarks"),
)


class MissingResultsError(Exception):
    """A page has a table whose JSON file is not there."""


def block_of(name: str) -> Block:
    """The first kind of table that a name fits."""
    return next(block for block in BLOCKS if fnmatch(name, block.name))


def content(name: str, page: Path, results: Path) -> str:
    """What belongs between a page's markers of that name.

    Raises:
        MissingResultsError: none of its files is there.
    """
    block = block_of(name)
    stems = block.files or (name,)
    paths = {stem: results / f"{stem}.json" for stem in stems}
    there = {stem: path for stem, path in paths.items() if path.exists()}
    if not there:
        missing = ", ".join(path.name for path in paths.values())
        raise MissingResultsError(
            f"<!-- {name} --> needs {missing}, which `{block.command}` writes"
        )
    reports = {stem: json.loads(path.read_text("utf-8")) for stem, path in there.items()}
    made = block.render(reports if block.files else reports[name])

    def link(path: Path) -> str:
        return Path(os.path.relpath(path, page.parent)).as_posix()

    if block.plot and (results / f"{stems[0]}.svg").exists():
        light, dark = (results / f"{stems[0]}{suffix}.svg" for suffix in ("", "-dark"))
        images = [f"![{block.plot}]({link(light)}#only-light)"]
        images += [f"![{block.plot}]({link(dark)}#only-dark)"]
        made = "\n".join(images) + f"\n\n{made}"
    by_hand = [stem for stem, report in reports.items() if "by_hand" in report]
    measured = [stem for stem in reports if stem not in by_hand]

    def links(stems: list[str]) -> str:
        return ", ".join(f"[{there[stem].name}]({link(there[stem])})" for stem in stems)

    commands = dict.fromkeys(command_of(reports[stem], block) for stem in measured)
    by = " and ".join(f"`{command}`" for command in commands)
    rest = f" Figures of other work: {links(by_hand)}." if by_hand else ""
    return f"{made}\n\nFrom {links(measured)}, written by {by}.{rest}"


def command_of(report: Any, block: Block) -> str:
    """What a file says of itself, or the block of it."""
    own = report.get("command") if isinstance(report, dict) else None
    return own if isinstance(own, str) else block.command


def fill(text: str, page: Path, results: Path) -> tuple[str, list[str]]:
    """A page with its tables made anew, and what could not be made.

    Raises:
        ValueError: a marker without its counterpart.
    """
    problems = []

    def new(match: re.Match[str]) -> str:
        name, old = match["name"], match["old"]
        try:
            made = content(name, page, results)
        except MissingResultsError as error:
            if old.strip() != NOT_YET:
                problems.append(str(error))
            return match[0]
        return f"<!-- {name} -->\n\n{made}\n\n<!-- /{name} -->"

    marker = r"^<!-- (?P<name>[a-z0-9-]+) -->\n(?P<old>.*?)^<!-- /(?P=name) -->$"
    filled = re.sub(marker, new, text, flags=re.DOTALL | re.MULTILINE)
    rest = re.sub(marker, "", text, flags=re.DOTALL | re.MULTILINE)
    lone = re.findall(r"^<!-- /?[a-z0-9-]+ -->$", rest, flags=re.MULTILINE)
    if lone:
        raise ValueError(f"{page}: {lone[0]} must have its counterpart, each on a line of its own")
    return filled, problems


def pages(root: Path) -> Iterator[Path]:
    """The README and every page of the documentation."""
    yield root / "README.md"
    yield from sorted((root / "docs").rglob("*.md"))


def main(argv: list[str] | None = None) -> int:
    """Returns 1 if a table is stale (`--check`) or cannot be made."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, name stale pages")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    results, code = args.root / "docs" / "results", 0
    if not args.check:
        draw(results)  # before the pages, which show the plots that are there
    for page in pages(args.root):
        text, name = page.read_text("utf-8"), page.relative_to(args.root)
        filled, problems = fill(text, page, results)
        for problem in problems:
            print(f"{name}: {problem}", file=sys.stderr)
            code = 1
        if filled != text and args.check:
            print(f"{name} is stale: run `python docs/results_to_pages.py`", file=sys.stderr)
            code = 1
        elif filled != text:
            page.write_text(filled, "utf-8")
            print(f"{name}: tables made anew")
    return code


def draw(results: Path) -> None:
    """The plots, beside their files."""
    try:
        from rendering import plots
    except ImportError as error:
        print(f"no plots: {error}; they need the extra `bench`", file=sys.stderr)
        return
    for path in plots.draw_all(results):
        print(f"{path.name} drawn")


if __name__ == "__main__":
    raise SystemExit(main())
