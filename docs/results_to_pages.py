"""Fills the tables of the README and of docs/ from docs/results/*.json, and draws the plots.

    python docs/results_to_pages.py           # tables, and the plots if matplotlib is installed
    python docs/results_to_pages.py --check   # only says which tables are stale; exit code 1 then
    python docs/results_to_pages.py --dates   # before: the days of the files, from their commits

Measurements are made elsewhere (examples/reproduce, tests/benchmarks) and end in a JSON file; this
is the one place that turns such files into what readers see. A table stands on a page between
`<!-- NAME -->` and `<!-- /NAME -->`; `rendering.blocks` says from which file, by which function,
and which command wrote that file. A file that is missing leaves the page as it is: an error, unless
the page says between the markers that nothing was measured yet.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rendering import ages, markdown, titles
from rendering.blocks import Block, block_of

ROOT = Path(__file__).resolve().parents[1]
NOT_YET = "*Not measured yet.*"


class MissingResultsError(Exception):
    """A page has a table whose JSON file is not there."""


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
    if block.caption:
        made = markdown.captioned(block.caption, made)

    def link(path: Path) -> str:
        return Path(os.path.relpath(path, page.parent)).as_posix()

    if block.plot and (results / f"{stems[0]}.svg").exists():
        light, dark = (results / f"{stems[0]}{suffix}.svg" for suffix in ("", "-dark"))
        said = f"{titles.title_of(stems[0], reports[stems[0]])}. {block.plot}"
        images = [f"![{said}]({link(light)}#only-light)"]
        images += [f"![{said}]({link(dark)}#only-dark)"]
        made = "\n".join(images) + f"\n\n{made}"
    by_hand = [stem for stem, report in reports.items() if "by_hand" in report]
    measured = [stem for stem in reports if stem not in by_hand]

    def links(stems: list[str]) -> str:
        return ", ".join(f"[{there[stem].name}]({link(there[stem])})" for stem in stems)

    commands = dict.fromkeys(command_of(reports[stem], block) for stem in measured)
    by = " and ".join(f"`{command}`" for command in commands)
    rest = f" Figures of other work: {links(by_hand)}." if by_hand else ""
    # Below a table or a list; on the line of what else is told of it, where there is one.
    last = made.splitlines()[-1]
    between = "\n\n" if last.startswith(("|", "- ")) else " "
    return f"{made}{between}From {links(measured)}, written by {by}.{rest}"


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
    parser.add_argument("--dates", action="store_true", help="write docs/results/dates.json anew")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    results, code = args.root / "docs" / "results", 0
    if args.dates:
        ages.write(results)
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
