"""Markdown tables, and figures as every page writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dd_plugin import text
from dd_plugin.evaluation import Scores


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], right: str = "") -> str:
    """A table; the columns named in `right`, one letter each, are r (right) or l (left)."""
    return text.table(head, (list(map(str, row)) for row in rows), right, padded=False)


def captioned(caption: str, tabled: str) -> str:
    """A table below the sentence that says what it shows."""
    return f"*{caption}*\n\n{tabled}"


def made_on(report: Any) -> str:
    """The processor and the torch of a file of results."""
    return f"{report['hardware']}, torch {report['torch']}."


def percent(values: Sequence[float]) -> str:
    """Mean and, of several, standard deviation of fractions: `91.1 ± 1.6 %`."""
    return str(Scores(tuple(values)))


def with_range(middle: float, ends: Sequence[float], digits: int = 2) -> str:
    """A median and the range that it comes from."""
    low, high = ends
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def plain(value: Any) -> str:
    """Any value of a JSON file: numbers to three digits, lists of accuracies as mean and spread."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if value is None:
        return ""
    return str(value).replace("|", "\\|")


def generic(report: Any) -> str:
    """The rows of a file that has no table of its own: every column that holds plain values."""
    rows = rows_of(report)
    keys = list(dict.fromkeys(key for row in rows for key in row))
    named = [key for key in keys if any(_is_plain(key, row.get(key)) for row in rows)]
    head = ["accuracy" if key == "accuracies" else key.replace("_", " ") for key in named]
    cells = [[_cell(key, row.get(key)) for key in named] for row in rows]
    return table(head, cells)


def rows_of(report: Any) -> list[dict[str, Any]]:
    """A file is a list of rows, or has them under `rows` or `cases`."""
    if isinstance(report, list):
        return report
    return report.get("rows", report.get("cases", []))


def _is_plain(key: str, value: Any) -> bool:
    return key == "accuracies" or isinstance(value, (str, int, float))


def _cell(key: str, value: Any) -> str:
    if key == "accuracies" and value:
        return percent(value)
    return plain(value) if _is_plain(key, value) else ""
