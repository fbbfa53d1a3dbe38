"""Values of a configuration from what YAML, a command line or a user wrote for them.

Used by `config` for every field by its type: words that YAML does not read as numbers (1e-3), and
switches in quotes, which would otherwise be true whatever they say. `choices` reads the allowed
values of a field from its type, for everything that shows or checks them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from dd_plugin.text import suggestion

_SWITCHES = dict.fromkeys(("true", "yes", "on", "1", "t", "y"), True)
_SWITCHES |= dict.fromkeys(("false", "no", "off", "0", "f", "n"), False)


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


def switch(value: Any) -> bool:
    """Return the switch that a value means, such as true or the word ``yes``.

    Raises:
        KeyError: it means none.
    """
    return _SWITCHES[str(value).lower()]


def _text(value: Any) -> str:
    text = os.fspath(value)
    if not isinstance(text, str):
        raise TypeError
    return text


KINDS = {
    int: Kind(_whole_number, "a whole number"),
    float: Kind(_number, "a finite number"),
    bool: Kind(switch, "true or false"),
    str: Kind(_text, "text"),
}


def _parts(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def choices(hint: Any) -> tuple[str, ...]:
    """Return the values that a `Literal` allows, optional or not; none of any other type."""
    literals = [part for part in _parts(hint) if get_origin(part) is Literal]
    return tuple(value for part in literals for value in get_args(part))


def _chosen(allowed: tuple[str, ...]) -> Kind:
    def convert(value: Any) -> Any:
        # YAML reads the word no as false.
        value = "no" if value is False and "no" in allowed else value
        if value not in allowed:
            raise ValueError
        return value

    return Kind(convert, f"one of {', '.join(allowed)}")


def coerced(name: str, value: Any, hint: Any, *, secret: bool = False) -> Any:
    """A value as the type of its field has it; unchanged where the type is none of `KINDS`.

    Args:
        name: of the field, for the message.
        value: what was given.
        hint: the field's type, such as ``int | None`` or ``Literal["no", "bf16"]``.
        secret: name the type of a wrong value in the message, not the value.

    Raises:
        ValueError: it cannot be made, or is not among the choices.
    """
    parts = _parts(hint)
    optional = type(None) in parts
    kinds = [part for part in parts if part is not type(None)]
    allowed = choices(hint)
    kind = _chosen(allowed) if allowed else KINDS.get(kinds[0]) if len(kinds) == 1 else None
    if kind is None or (value is None and optional):
        return value
    try:
        return kind.convert(value)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        none = ", or nothing" if optional else ""
        got = f"a value of type {type(value).__name__}" if secret else repr(value)
        # The conversion's own error quotes the value as well.
        cause = None if secret else error
        meant = suggestion(value, allowed, quoted=True) if isinstance(value, str) else ""
        hint = f"; {meant}" if meant else ""
        raise ValueError(f"`{name}` must be {kind.words}{none}, got {got}{hint}") from cause
