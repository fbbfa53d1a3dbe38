"""The command: many cases, kept as they come; what failed is printed so that it can be read."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from tests.bilevel.fuzz.cases import make, source
from tests.bilevel.fuzz.runner import TOLERANCE, judge

Row = dict[str, Any]


def stored(path: Path | None) -> dict[int, Row]:
    """The cases of a file that `store` wrote; none if there is no such file."""
    if path is None or not path.exists():
        return {}
    return {row["number"]: row for row in json.loads(path.read_text("utf-8"))["cases"]}


def summary(rows: Iterable[Row]) -> Row:
    """Counts, the worst error of every way, and how often every feature occurred."""
    rows = list(rows)
    ways: dict[str, list[float]] = {}
    for row in rows:
        for way, error in row.get("ways", {}).items():
            ways.setdefault(way, []).append(error)
    refusals = Counter(
        f"{way}: {why}" for row in rows for way, why in row.get("refused", {}).items()
    )
    features = Counter(feature for row in rows for feature in set(row.get("features", ())))
    return {
        "count": len(rows),
        "status": dict(Counter(row["status"] for row in rows)),
        "worst": max((row["error"] for row in rows), default=0.0),
        "sensitive": sum("sensitive" in row for row in rows),
        "ways": {way: {"cases": len(e), "worst": max(e)} for way, e in sorted(ways.items())},
        "refusals": dict(refusals.most_common()),
        "features": dict(sorted(features.items())),
    }


def store(path: Path, found: dict[int, Row]) -> None:
    """One case per line, beneath the summary."""
    rows = [found[number] for number in sorted(found)]
    last = max(found, default=0) + 1
    head = {
        "command": f"python -m tests.bilevel.fuzz --cases {last}",
        "torch": torch.__version__,
        "tolerance": TOLERANCE,
        **summary(rows),
    }
    text = json.dumps(head, indent=1)[:-2] + ',\n "cases": [\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    beside.write_text(text + ",\n".join(map(json.dumps, rows)) + "\n]}\n", "utf-8")
    beside.replace(path)


def told(row: Row) -> str:
    """A case in one line."""
    parts = [f"{row['number']:5d} {row['status']:8s} {row['seconds']:6.1f} s {row['error']:.1e}"]
    for key in ("trouble", "refused", "sensitive"):
        parts += [f"{key}, {way}: {what}" for way, what in row.get(key, {}).items()]
    return "; ".join(parts)


def main(argv: list[str] | None = None) -> int:
    """Returns 1 if a case has failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bilevel.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=50, help="cases 0 up to this number")
    parser.add_argument("--only", type=int, nargs="+", help="these cases, and what they are")
    parser.add_argument("--json", type=Path, help="results; what it holds already is not run again")
    parser.add_argument("--minutes", type=float, help="start no further case after this time")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    found = stored(args.json)
    wanted = args.only or [number for number in range(args.cases) if number not in found]
    began = saved = time.monotonic()
    failed = []
    try:
        for number in wanted:
            if args.minutes is not None and time.monotonic() - began > 60 * args.minutes:
                break
            if args.only:
                print(make(number), source(make(number)), sep="\n", flush=True)
            found[number] = row = judge(number).row()
            print(told(row), flush=True)
            if row["status"] == "failed":
                failed.append(number)
                if not args.only:
                    print(make(number), flush=True)
            if args.json and time.monotonic() - saved > 15:
                store(args.json, found)
                saved = time.monotonic()
    finally:
        if args.json:
            store(args.json, found)
    whole = summary(found.values())
    print(f"{whole['count']} cases {whole['status']}, the worst error {whole['worst']:.1e}")
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
