"""Marks on the settings that a user left alone, which the rule of `defaults` may change.

Used by `setting_groups` for the defaults of such settings. With a mark, a default can be told from
the same value that was written down. A marked value is a number, a word or a dictionary like any
other. It stays marked in copies of the settings.
"""

from __future__ import annotations

from typing import Any, Final


class ByData:
    """A value that nobody wrote down."""


class Number(ByData, int):
    """A whole number that nobody wrote down."""


class Word(ByData, str):
    """A word that nobody wrote down."""


class Arguments(ByData, dict[str, Any]):
    """Arguments of a network that nobody wrote down, unless they were changed since."""

    def __init__(self, *values: Any) -> None:
        super().__init__(*values)
        self.as_made = dict(self)


class Names(ByData, list[Any]):
    """Names that nobody wrote down, unless they were changed since."""

    def __init__(self, *values: Any) -> None:
        super().__init__(*values)
        self.as_made = list(self)


_PLAIN: Final[dict[type, type]] = {Number: int, Word: str, Arguments: dict, Names: list}


def is_left_alone(value: Any) -> bool:
    """Return whether nobody wrote a value down, so that it may be chosen by the data."""
    if isinstance(value, (Arguments, Names)):
        return bool(value == value.as_made)
    return isinstance(value, ByData)


def marked(value: Any) -> Any:
    """Return a number, a word, a dictionary or a list with the mark."""
    kind = next(kind for kind, of_python in _PLAIN.items() if isinstance(value, of_python))
    return kind(value)


def plain(value: Any) -> Any:
    """Return a value without the mark."""
    return _PLAIN[type(value)](value) if isinstance(value, ByData) else value
