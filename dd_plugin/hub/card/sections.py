"""The parts of a card that are generated, each between two comments that hold its fingerprint.

    <!-- dd_plugin:begin results 1f0a5c44d3b2 -->
    ## Results
    ...
    <!-- dd_plugin:end results -->

A part whose text still has the fingerprint of its first comment is as it was generated; one that a
user has edited has not. A last comment lists what was generated: the parts, and the fingerprint of
every metadata value, so that what a user took away can be told from what is new.
`text` writes them, `merge` reads them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

# Marks are whole lines.
_MARK = re.compile(r"<!-- dd_plugin:(?:begin ([a-z_]+) ([0-9a-f]{12})|end ([a-z_]+)) -->")
_LEDGER_BEGIN, _LEDGER_END = "<!-- dd_plugin:generated", "-->"
_LEDGER_LINE = re.compile(r"([\w.-]+):((?: [0-9a-z_]+)*)")
_SECTIONS = "sections"


class Section(NamedTuple):
    """A generated part of a card.

    Attributes:
        name: one word.
        text: Markdown.
        fingerprint: that of the text as it was generated.
    """

    name: str
    text: str
    fingerprint: str

    @property
    def edited(self) -> bool:
        """Whether the text differs from the generated one."""
        return fingerprint(self.text) != self.fingerprint

    def __str__(self) -> str:
        begin = f"<!-- dd_plugin:begin {self.name} {self.fingerprint} -->"
        return f"{begin}\n{self.text}\n<!-- dd_plugin:end {self.name} -->"


class Ledger(NamedTuple):
    """The list of what was generated in a card.

    Attributes:
        sections: their names, in order.
        metadata: of each key the fingerprint of its value, or of each item of a list.
    """

    sections: tuple[str, ...]
    metadata: dict[str, tuple[str, ...]]

    def __str__(self) -> str:
        lines = [(_SECTIONS, self.sections), *self.metadata.items()]
        body = "\n".join(f"{key}:" + "".join(f" {word}" for word in words) for key, words in lines)
        return f"{_LEDGER_BEGIN}\n{body}\n{_LEDGER_END}"


def fingerprint(value: Any) -> str:
    """Return twelve hexadecimal digits of a text, or of another value as YAML."""
    # YAML and not JSON: it keeps references, so that a small file cannot stand for a huge text.
    text = value if isinstance(value, str) else yaml.safe_dump(value)
    return hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).hexdigest()[:12]


def fingerprints(value: Any) -> tuple[str, ...]:
    """Return the fingerprint of each item of a list, or of any other value."""
    return tuple(map(fingerprint, value)) if isinstance(value, list) else (fingerprint(value),)


def section(name: str, text: str) -> Section:
    """Return a part that is generated now."""
    return Section(name, text.strip("\n"), fingerprint(text))


def ledger(sections: Iterable[Section], metadata: Mapping[str, Any]) -> Ledger:
    """Return the list of what is generated now."""
    return Ledger(
        tuple(part.name for part in sections),
        {key: fingerprints(value) for key, value in metadata.items()},
    )


def joined(parts: Sequence[Section | str], listed: Ledger) -> str:
    """Return the body of a card."""
    return "\n\n".join([*map(str, parts), str(listed)]) + "\n"


def split(body: str) -> tuple[list[Section | str], Ledger | None]:
    """Return the parts of a card's body: generated ones, and the text between them.

    Text that is nothing but empty lines is left out. The list of what was generated is None for a
    card that was not made here, or that lost it.
    """
    lines = body.replace("\r\n", "\n").split("\n")
    parts: list[Section | str] = []
    listed, between = None, []
    i = 0
    while i < len(lines):
        generated = _section_at(lines, i) or _ledger_at(lines, i)
        if generated is None:
            between.append(lines[i])
            i += 1
            continue
        part, i = generated
        if isinstance(part, Section):
            parts += ["\n".join(between), part]
            between = []
        else:
            # The last one counts: others are in copies that somebody made of a whole card.
            listed = part
    kept = (p.strip("\n") if isinstance(p, str) else p for p in [*parts, "\n".join(between)])
    return [part for part in kept if not isinstance(part, str) or part.strip()], listed


def _section_at(lines: Sequence[str], begin: int) -> tuple[Section, int] | None:
    """Return the section that begins with a line, and the line behind it, or None.

    One without its end, or with another mark before that, is no section.
    """
    first = _MARK.fullmatch(lines[begin])
    if not first or not first[1]:
        return None
    for i in range(begin + 1, len(lines)):
        mark = _MARK.fullmatch(lines[i])
        if mark or lines[i] == _LEDGER_BEGIN:
            if not mark or mark[3] != first[1]:
                return None
            return Section(first[1], "\n".join(lines[begin + 1 : i]), first[2]), i + 1
    return None


def _ledger_at(lines: Sequence[str], begin: int) -> tuple[Ledger, int] | None:
    if lines[begin] != _LEDGER_BEGIN:
        return None
    words: dict[str, tuple[str, ...]] = {}
    for i in range(begin + 1, len(lines)):
        if lines[i] == _LEDGER_END:
            return Ledger(words.pop(_SECTIONS, ()), words), i + 1
        line = _LEDGER_LINE.fullmatch(lines[i])
        if not line:
            break
        words[line[1]] = tuple(line[2].split())
    return None
