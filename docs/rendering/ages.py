"""The days on which the files of results were last measured, from the history of the repository."""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

from rendering.markdown import rows_of, table

COMMAND = "python docs/results_to_pages.py --dates"
FILE = "dates.json"
# What no command measures.
_NOT_MEASURED = {FILE, "published.json"}


def write(results: Path) -> None:
    """Write the day of every file of results, beside them."""
    rows = [
        {"file": path.name, "day": _day(path)}
        for path in sorted(results.glob("*.json"))
        if path.name not in _NOT_MEASURED
    ]
    content = json.dumps({"command": COMMAND, "rows": rows}, indent=1)
    (results / FILE).write_text(content + "\n", "utf-8")


def _day(path: Path) -> str:
    """The day that a file gives, where it was put together later, or that of its last commit."""
    report = json.loads(path.read_text("utf-8"))
    if isinstance(report, dict) and "day" in report:
        return str(report["day"])
    command = ["git", "log", "-1", "--format=%as", "--", path.name]
    return subprocess.run(
        command, cwd=path.parent, capture_output=True, text=True, check=True
    ).stdout.strip()


def ages(report: Any) -> str:
    """Files by the day, the latest first."""
    days: dict[str, list[str]] = defaultdict(list)
    for row in rows_of(report):
        days[row["day"]].append(row["file"].removesuffix(".json"))
    cells = [[day, ", ".join(names)] for day, names in sorted(days.items(), reverse=True)]
    return table(["measured", "files of docs/results"], cells)
