"""Text as every part writes it: errors in one line, suggestions, accuracies, counts, tables.

At the bottom. `hub.card.markdown` escapes values that may hold anything, as those of a card.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

# A signed address, or one with a password, is as good as a key while it lasts.
_QUERY = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?#'\"<>]*)[?#][^\s'\"<>)]*", re.IGNORECASE)
_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@'\"<>]+@", re.IGNORECASE)
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; its class if it has none.

    Without what `without_secrets` removes.
    """
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return without_secrets(line)


def described(error: BaseException) -> str:
    """Return `first_line`, with the class of the error where the line alone would say nothing.

    ``KeyError: 'x'`` and not ``'x'``.
    """
    line = first_line(error)
    return f"{type(error).__name__}: {line}" if isinstance(error, LookupError) else line


def without_secrets(text: str) -> str:
    """Return a message without secrets: queries of addresses, passwords in them, tokens."""
    text = _QUERY.sub(r"\1", text)
    text = _PASSWORD.sub(r"\1", text)
    return _TOKEN.sub("hf_...", text)


def percent(mean: float, std: float | None = None) -> str:
    """Return an accuracy in [0, 1] as a text: ``93.0 ± 1.0 %``, without the ± if there is none."""
    spread = "" if std is None else f" ± {100 * std:.1f}"
    return f"{100 * mean:.1f}{spread} %"


def count(value: Any, thing: str = "") -> str:
    """Return a count, ``1,078 images``, ``1 image``; an empty text for no whole number."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return ""
    if not thing:
        return f"{value:,}"
    plural = thing if value == 1 else thing + ("es" if thing.endswith("s") else "s")
    return f"{value:,} {plural}"


def suggestion(word: str, known: Iterable[str], *, quoted: bool = False) -> str:
    """Return ``did you mean x?`` with what a misspelled word may stand for; empty if nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    name = "".join(map(repr, close) if quoted else close)
    return f"did you mean {name}?" if close else ""


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], right: str = "", *, padded: bool = True
) -> str:
    """Return a Markdown table of cells that are Markdown already.

    Args:
        header: the first line.
        rows: the others.
        right: a letter for each column, ``r`` where it stands to the right; ``l`` is the rest.
        padded: make the columns as wide as their cells, to be read as plain text too.
    """
    lines = [tuple(header), *map(tuple, rows)]
    widths = [max(len(line[i]) for line in lines) if padded else 0 for i in range(len(header))]
    sides = right.ljust(len(header), "l")

    def joined(cells: Sequence[str]) -> str:
        columns = zip(cells, widths, sides, strict=True)
        return (
            "| " + " | ".join(c.rjust(w) if s == "r" else c.ljust(w) for c, w, s in columns) + " |"
        )

    rule = "".join(
        "-" * (w + 1 if padded else 3) + (":" if s == "r" else "-" * padded) + "|"
        for w, s in zip(widths, sides, strict=True)
    )
    return "\n".join([joined(lines[0]), f"|{rule}", *map(joined, lines[1:])])


def columns(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return indented columns under their titles, numbers to the right; `none` without rows."""
    rows = [tuple(row) for row in rows]
    if not rows:
        return ["  none"]
    widths = [max(len(str(cell)) for cell in column) for column in zip(titles, *rows, strict=True)]

    def line(cells: Sequence[object], like: Sequence[object]) -> str:
        return "".join(
            f"  {cell!s:>{width}}" if isinstance(kind, int) else f"  {cell!s:<{width}}"
            for cell, kind, width in zip(cells, like, widths, strict=True)
        ).rstrip()

    ruler = ["-" * width for width in widths]
    return [line(titles, rows[0]), line(ruler, rows[0]), *(line(row, row) for row in rows)]
