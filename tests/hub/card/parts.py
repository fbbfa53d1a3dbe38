"""Cards taken apart: their sections by name, and the rows of their tables."""

import re

from dd_plugin.hub.card.sections import Section, split


def sections(card):
    parts, _ = split(card.split("\n---\n", 1)[1])
    assert all(isinstance(part, Section) and not part.edited for part in parts)
    return {part.name: part.text for part in parts}


def rows(text):
    """The rows of all tables of a text, split at pipes that are not escaped."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if not re.match(r"\|-+", line)]
    return [[cell.strip() for cell in row] for row in cells]
