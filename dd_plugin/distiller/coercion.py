"""Values of a configuration from what YAML, a command line or a user wrote for them.

Used by `config` for every field by its type: words that YAML does not read as numbers (1e-3), and
switches in quotes, which would otherwise be true whatever they say.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from types import UnionType
from typing import Any, NamedTuple, get_args

_SWITCHES = {"true": True, "yes": True, "on": True, "1": True}
_SWITCHES |= {"false": False, "no": False, "off": False, "0": False}


class Kind(NamedTuple):
    """A type of field: what makes its values, and what they must be, in words."""

    convert: Callable[[Any], Any]
    words: str


def _number(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(float(value)):
        raise ValueError
    return float(value)


def _whole_number(value: Any) -> int:
    if not _number(value).is_integer():
        raise ValueError
    return value if isinstance(value, int) else int(float(value))


def _switch(value: Any) -> bool:
    return _SWITCHES[str(value).lower()]


def _text(value: Any) -> str:
    text = os.fspath(value)
    if not isinstance(text, str):
        raise TypeError
    return text


KINDS = {
    int: Kind(_whole_number, "a whole number"),
    float: Kind(_number, "a finite number"),
    bool: Kind(_switch, "true or false"),
    str: Kind(_text, "text"),
}


def coerced(name: str, value: Any, hint: Any, *, secret: bool = False) -> Any:
    """A value as the type of its field has it; unchanged where the type is none of `KINDS`.

    Args:
        name: of the field, for the message.
        value: what was given.
        hint: the field's type, such as ``int | None``.
        secret: name the type of a wrong value in the message, not the value.

    Raises:
        ValueError: it cannot be made.
    """
    parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    optional = type(None) in parts
    own = [part for part in parts if part is not type(None)]
    kind = KINDS.get(own[0]) if len(own) == 1 else None
    if kind is None or (value is None and optional):
        return value
    try:
        return kind.convert(value)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        none = ", or nothing" if optional else ""
        got = f"a value of type {type(value).__name__}" if secret else repr(value)
        # The conversion's own error quotes the value as well.
        cause = None if secret else error
        raise ValueError(f"`{name}` must be {kind.words}{none}, got {got}") from cause
