"""A new card put over one that its owner may have edited.

After `text`, which makes the new one; called before a set is published where a card exists.
What the owner wrote stays: text between the generated parts, generated parts that they changed or
deleted, metadata that they added, changed or deleted. The rest is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from dd_plugin.hub.card.sections import (
    Ledger,
    Section,
    fingerprint,
    fingerprints,
    joined,
    split,
)
from dd_plugin.text import described

# Metadata that describes the files; it is ours whatever the other card says.
_OF_THE_FILES = ("configs", "dataset_info", "size_categories")
_FENCE = "---"
_OTHER_BREAKS = re.compile("[\x85\u2028\u2029]")


class _Loader(yaml.SafeLoader):
    """Takes no, on, off, yes and dates as the texts that they are: no is a language."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, p) for tag, p in resolvers if not tag.endswith((":bool", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF")
)


# What the constructors of tags raise, such as `!!bool` and `!!timestamp`, for a value that does not
# fit.
_UNFIT = (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError)


class _Entry(NamedTuple):
    """A metadata key: its value, and the lines that say so."""

    value: Any
    text: str


def front_matter(metadata: Mapping[str, Any]) -> str:
    """Return metadata as YAML, key after key, without breaks in long values."""
    return "".join(_dumped(key, value) for key, value in metadata.items())


def merge_card(ours: str, theirs: str | None) -> str:
    """Return our new card with what a user wrote into the present one.

    Args:
        ours: as `dd_plugin.hub.card.text.make_card` makes it.
        theirs: the present card, which may be an edited earlier one or any other; None for none.

    Returns:
        The card to publish. Comments of metadata that is replaced are lost, nothing else of what
        the user wrote.

    Raises:
        ValueError: the present card's metadata is not YAML, so that it cannot be kept.
    """
    if theirs is None or not theirs.strip():
        return ours
    our_yaml, our_body = _halves(ours)
    their_yaml, their_body = _halves(theirs.removeprefix("\ufeff").replace("\r\n", "\n"))
    our_parts, our_ledger = split(our_body)
    their_parts, their_ledger = split(their_body)
    if our_ledger is None:
        raise ValueError("`ours` must be a card that make_card made, got one without its markers")
    metadata = _merged_metadata(_entries(our_yaml), _entries(their_yaml), their_ledger)
    parts = _merged_parts(our_parts, their_parts, their_ledger)
    body = joined(parts, our_ledger)
    return f"{_FENCE}\n{metadata}{_FENCE}\n\n{body}"


def with_license(card: str, license: str) -> str:
    """Return the card with a license in its metadata, in the place of an earlier one.

    Args:
        card: any card.
        license: an identifier of the Hub's list, such as ``"cc-by-4.0"``.
    """
    text, body = _halves(card)
    entries = _entries(text)
    entries |= {"license": _Entry(license, _dumped("license", license))}
    return f"{_FENCE}\n{_joined_entries(entries)}{_FENCE}\n{body}"


def _halves(card: str) -> tuple[str, str]:
    """Return front matter, which may be empty, and body."""
    lines = card.lstrip("\n").split("\n")
    if lines[0].rstrip() == _FENCE:
        for i, line in enumerate(lines[1:], start=1):
            if line.rstrip() == _FENCE:
                return "".join(f"{line}\n" for line in lines[1:i]), "\n".join(lines[i + 1 :])
    return "", card


def _entries(text: str) -> dict[str, _Entry]:
    """Return the keys of a front matter, each with its lines."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if _refers_to_itself(node):
            raise ValueError("an alias stands inside of what it refers to")
        values: Any = {} if node is None else loader.construct_document(node)
        pieces = _pieces(text, node) if isinstance(node, yaml.MappingNode) else []
    except (yaml.YAMLError, *_UNFIT) as error:
        raise ValueError(
            f"the metadata at the top of the present card is not YAML, so it cannot be kept: "
            f"{described(error)}; mend it or take it away"
        ) from error
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(
            "the metadata at the top of the present card must be `key: value` lines, got "
            f"{type(values).__name__}; mend it or take it away"
        )
    return {
        str(key): _Entry(value, pieces[i] if pieces else _dumped(str(key), value))
        for i, (key, value) in enumerate(values.items())
    }


def _refers_to_itself(node: yaml.Node | None) -> bool:
    """Return whether a value contains itself, by an alias."""
    done: set[int] = set()
    above: set[int] = set()
    stack = [(node, False)]
    while stack:
        current, leaving = stack.pop()
        if leaving:
            above.discard(id(current))
            done.add(id(current))
            continue
        if id(current) in above:
            return True
        if id(current) in done or not isinstance(current, yaml.CollectionNode):
            continue
        above.add(id(current))
        stack.append((current, True))
        inner = current.value
        if isinstance(current, yaml.MappingNode):
            inner = [part for pair in current.value for part in pair]
        stack += [(part, False) for part in inner]
    return False


def _pieces(text: str, node: yaml.MappingNode) -> list[str]:
    """Return the lines of each key, with comments; none where they cannot stand alone."""
    names = [key.value for key, _ in node.value]
    if node.flow_style or len(set(names)) < len(names):
        return []
    if "*" in text and any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
        return []
    starts = [0, *(key.start_mark.index for key, _ in node.value[1:])]
    ends = [*starts[1:], len(text)]
    return [text[a:b] for a, b in zip(starts, ends, strict=True)]


def _dumped(key: str, value: Any) -> str:
    def dumped(allow_unicode: bool) -> str:
        return yaml.safe_dump(
            {key: value}, sort_keys=False, allow_unicode=allow_unicode, width=float("inf")
        )

    text = dumped(allow_unicode=True)
    # Line breaks of Unicode are written as they are and would be read as spaces.
    return dumped(allow_unicode=False) if _OTHER_BREAKS.search(text) else text


def _joined_entries(entries: Mapping[str, _Entry]) -> str:
    """Return the lines of all keys as they were written, or dumped where these say less."""
    text = "".join(e.text if e.text.endswith("\n") else e.text + "\n" for e in entries.values())
    values = {key: entry.value for key, entry in entries.items()}
    try:
        same = yaml.load(text, Loader=_Loader) == values
    except (yaml.YAMLError, *_UNFIT):
        same = False
    return text if same else front_matter(values)


def _merged_metadata(
    ours: dict[str, _Entry], theirs: dict[str, _Entry], listed: Ledger | None
) -> str:
    before = listed.metadata if listed else {}
    merged = {}
    for key, entry in ours.items():
        if key in _OF_THE_FILES:
            merged[key] = entry
        elif key in theirs:
            merged[key] = _merged_entry(key, entry, theirs[key], before.get(key))
        elif key not in before:
            merged[key] = entry
    for key, entry in theirs.items():
        left_alone = fingerprints(entry.value) == before.get(key)
        if key not in ours and key not in _OF_THE_FILES and not left_alone:
            merged[key] = entry
    return _joined_entries(merged)


def _merged_entry(key: str, ours: _Entry, theirs: _Entry, before: tuple[str, ...] | None) -> _Entry:
    if theirs.value == ours.value:
        return theirs
    if fingerprints(theirs.value) == before:
        return ours
    if not isinstance(ours.value, list) or not isinstance(theirs.value, list):
        return theirs
    # Item by item: what the owner took out stays out, what they put in stays in.
    present, generated = fingerprints(theirs.value), set(before or ())
    kept = [v for v in ours.value if (f := fingerprint(v)) in present or f not in generated]
    known = set(map(fingerprint, kept)) | generated
    value = kept + [v for v in theirs.value if fingerprint(v) not in known]
    if value == theirs.value:
        return theirs
    return _Entry(value, _dumped(key, value))


def _merged_parts(
    ours: list[Section | str], theirs: list[Section | str], listed: Ledger | None
) -> list[Section | str]:
    new = {part.name: part for part in ours if isinstance(part, Section)}
    before = listed.sections if listed else ()
    if tuple(part.name for part in theirs if isinstance(part, Section)) == before and not any(
        isinstance(part, str) or part.edited for part in theirs
    ):
        return ours
    merged: list[Section | str] = []
    for part in theirs:
        if isinstance(part, str) or part.edited:
            merged.append(part)
        elif part.name in new:
            merged.append(new[part.name])
    present = {part.name for part in theirs if isinstance(part, Section)}
    names = list(new)
    for i, name in enumerate(names):
        if name not in present and name not in before:
            merged.insert(_place(merged, set(names[:i])), new[name])
    return merged


def _place(parts: list[Section | str], earlier: set[str]) -> int:
    """Return the place behind the last of the earlier sections, or behind everything."""
    places = [i for i, p in enumerate(parts) if isinstance(p, Section) and p.name in earlier]
    return places[-1] + 1 if places else len(parts)
