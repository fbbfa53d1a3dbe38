"""Text for a Markdown page out of values that may hold anything.

The words of a card are ours. Its values come from a record that a stranger may have written: a name
with a pipe, a line break or a tag must neither break a table nor become part of the page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from dd_plugin import text as plain

_LONGEST = 200
# What needs no care between backticks, in a table too.
_PLAIN_CODE = re.compile(r"[\w ./:=@+,'\"(){}\[\]-]+", re.ASCII)
_MARKUP = re.compile(r"([\\`*\[\]|~#$]|(?<!\w)_|_(?!\w))")


class Markdown(str):
    """Text that is Markdown already, and not escaped again."""

    __slots__ = ()


def one_line(value: Any, longest: int = _LONGEST) -> str:
    """Return a value in one line without control characters, cut to a length by an ellipsis."""
    text = value if isinstance(value, str) else str(value)
    # Lone surrogates have no UTF-8; controls, line and direction marks have no place in a line.
    text = "".join(c if c.isprintable() else " " for c in text)
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def escaped(value: Any) -> Markdown:
    """Return a value as text that Markdown and HTML take literally, in a table cell too."""
    text = one_line(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return Markdown(_MARKUP.sub(r"\\\1", text))


def code(value: Any) -> Markdown:
    """Return a name or setting in backticks, or `escaped` where backticks do not do."""
    text = one_line(value)
    return Markdown(f"`{text}`") if _PLAIN_CODE.fullmatch(text) else escaped(text)


def literal(value: Any) -> Markdown:
    """Return a JSON value in backticks, or `escaped`."""
    return code(json.dumps(value, ensure_ascii=False, default=str))


def fenced(text: str, language: str) -> Markdown:
    """Return a block of code that its text can neither close nor turn into a mark of the card."""
    text = text.replace("<!--", "<!- -")
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return Markdown(f"{fence}{language}\n{text}\n{fence}")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Markdown:
    """Return a Markdown table of cells that are Markdown already; see `dd_plugin.text.table`."""
    return Markdown(plain.table(header, rows))


def count(value: int | None, thing: str = "") -> Markdown:
    """Return a number of things: ``1,078 images``; an empty text where it is not known."""
    return Markdown(plain.count(value, thing))


def decimal(value: float) -> Markdown:
    """Return a number with at most four significant digits."""
    return Markdown(f"{value:.4g}")
