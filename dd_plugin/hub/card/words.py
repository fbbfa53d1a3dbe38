"""The words of a card, from ``words.md``, with values put in by name.

Used by `text`, `results` and `usage`, above `markdown`. Values are escaped here and nowhere else,
unless they are `Markdown` already.
"""

from __future__ import annotations

import re
from pathlib import Path
from string import Template
from typing import Any, Final

from dd_plugin.hub.card.markdown import Markdown, escaped, fenced, table

_BLOCK = re.compile(r"^=== ([\w.]+)\n", re.MULTILINE)


def _read() -> dict[str, Template]:
    parts = _BLOCK.split(Path(__file__).with_name("words.md").read_text("utf-8"))
    names, texts = parts[1::2], parts[2::2]
    return {name: Template(text.rstrip("\n")) for name, text in zip(names, texts, strict=True)}


BLOCKS: Final = _read()


def say(block: str, /, **values: Any) -> Markdown:
    """Return a block with its values."""
    shown = {n: v if isinstance(v, Markdown) else escaped(v) for n, v in values.items()}
    return Markdown(BLOCKS[block].substitute(shown))


def one_of(kind: str, choice: str | None, /, **values: Any) -> Markdown:
    """Return the block ``kind.choice`` with its values; an empty text where there is none."""
    block = f"{kind}.{choice}"
    return say(block, **values) if block in BLOCKS else Markdown()


def cells(block: str) -> tuple[str, ...]:
    """Return the header of a table."""
    return tuple(cell.strip() for cell in say(block, nothing="").split("|"))


def table_of_rows(header: str, rows: str, /, **values: Any) -> Markdown:
    """Return a table of the labels and values of a block, without rows that have no value.

    Args:
        header: a block.
        rows: a block.
        **values: see `say`.
    """
    labeled = (line.partition(" | ") for line in BLOCKS[rows].template.splitlines())
    shown = {n: v if isinstance(v, Markdown) else escaped(v) for n, v in values.items()}
    filled = ((label, Template(text).substitute(shown)) for label, _, text in labeled)
    return table(cells(header), [row for row in filled if row[1]])


def python(block: str, /, **values: str) -> Markdown:
    """Return a block of code with its values, which are nobody's free text."""
    return fenced(BLOCKS[block].substitute(values), "python")


def joined(parts: list[Markdown], between: str) -> Markdown:
    """Return the texts that are not empty, one behind the other."""
    return Markdown(between.join(part for part in parts if part))
