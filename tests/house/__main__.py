"""Print the figures of the package; store them, or compare them with stored ones."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tests.house.figures import long_files, long_functions, places
from tests.house.source import File, files_of
from tests.repository import ROOT


def measured(files: list[File], found: dict[str, list[str]]) -> dict[str, Any]:
    """The figures, and files and lines by folder."""
    folders: dict[str, list[int]] = {}
    for file in files:
        of_folder = folders.setdefault(file.folder, [0, 0])
        of_folder[0] += 1
        of_folder[1] += file.lines
    return {
        "folders": {name: f"{n} files, {lines} lines" for name, (n, lines) in folders.items()},
        "figures": {
            "files": len(files),
            "lines": sum(file.lines for file in files),
            "lines of code": sum(len(file.code) for file in files),
            "longest file": next(iter(long_files(files, 0)), ""),
            "longest function": next(iter(long_functions(files, 0)), ""),
            **{name: len(where) for name, where in found.items()},
        },
    }


def rows(now: dict[str, Any], before: dict[str, Any] | None) -> list[tuple[str, ...]]:
    """The table: name and value, or name, before and after."""
    table: list[tuple[str, ...]] = []
    for kind in ("folders", "figures"):
        old = {} if before is None else before[kind]
        for name in [*old, *(n for n in now[kind] if n not in old)]:
            values = [] if before is None else [str(old.get(name, "-"))]
            label = f"{name}/" if kind == "folders" else name
            table.append((label, *values, str(now[kind].get(name, "-"))))
    return table


def text_of(table: list[tuple[str, ...]], header: tuple[str, ...]) -> str:
    lines = [header, tuple("-" * len(h) for h in header), *table]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (
        [cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines
    )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in padded)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.house", description=__doc__)
    parser.add_argument("--json", type=Path, help="store the figures")
    parser.add_argument("--against", type=Path, help="stored figures to compare with")
    parser.add_argument("--list", metavar="FIGURE", help="the places that a figure counts")
    args = parser.parse_args()
    folder = ROOT / "dd_plugin"
    files = files_of(folder)
    found = places(files, folder, ROOT / "tests")
    if args.list is not None:
        if args.list not in found:
            parser.error(f"--list must be one of {', '.join(found)}, got {args.list}")
        print("\n".join(found[args.list]))
        return
    now = measured(files, found)
    before = json.loads(args.against.read_text("utf-8")) if args.against else None
    header = ("", "now") if before is None else ("", "before", "after")
    print(text_of(rows(now, before), header))
    if args.json is not None:
        args.json.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
