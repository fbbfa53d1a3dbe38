"""An object of JSON as a frozen dataclass: `JsonPart`, and the readers of its values.

Bottom of `record`. Each field names its reader in its type, ``Annotated[str | None, Key(text)]``.
A reader takes what the file has and either returns the value or raises. Those of values that the
card can do without return None for anything else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, NamedTuple, Self, get_args, get_type_hints

from dd_plugin.hub.limits import DistilledFormatError

Reader = Callable[[Any, str], Any]


class Key(NamedTuple):
    """The place of a field in JSON.

    Attributes:
        read: takes the value and its place in the record, such as ``"source.dataset"``.
        name: the key, where it is not the field's name.
        left_out: whether a field that is None or empty is not written.
        write: returns the value as JSON has it; by default `as_json`.
    """

    read: Reader
    name: str | None = None
    left_out: bool = False
    write: Callable[[Any], Any] | None = None


@dataclass(frozen=True, kw_only=True)
class JsonPart:
    """An object of JSON whose keys are the fields, in their order.

    What was read is written again as it was, with the keys that this version does not know. A
    changed copy, by `dataclasses.replace`, has the fields alone.
    """

    _json: Mapping[str, Any] | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def from_json(cls, values: Any, where: str = "") -> Self:
        """Read a part.

        Args:
            values: an object of JSON, which must not be changed afterwards.
            where: its place in the record.

        Raises:
            DistilledFormatError: it is not what it has to be.
        """
        if not isinstance(values, Mapping):
            raise DistilledFormatError(f"{where!r} must be an object")
        arguments = {}
        for name, key, optional in _keys(cls):
            json_name = key.name or name
            if json_name in values or not optional:
                place = f"{where}.{json_name}" if where else json_name
                arguments[name] = key.read(values.get(json_name), place)
        part = cls(**arguments)
        object.__setattr__(part, "_json", values)
        return part

    def to_json(self) -> dict[str, Any]:
        """Return the object of JSON, with the keys in the order of the fields, or as read."""
        if self._json is not None:
            return dict(self._json)
        values = {
            key.name or name: (getattr(self, name), key) for name, key, _ in _keys(type(self))
        }
        return {
            name: (key.write or as_json)(value)
            for name, (value, key) in values.items()
            if not (key.left_out and value in (None, (), {}))
        }

    def as_read(self, changes: Mapping[str, Any]) -> Self | None:
        """Return the part as it was read, with other values of these keys.

        None for a part that was not read.
        """
        return None if self._json is None else type(self).from_json({**self._json, **changes})

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing."""
        return not self.to_json()


_KEYS: dict[type, tuple[tuple[str, Key, bool], ...]] = {}


def _keys(part: type[JsonPart]) -> tuple[tuple[str, Key, bool], ...]:
    """Name, key and whether it may be missing, of each field that is in JSON."""
    if part not in _KEYS:
        hints = get_type_hints(part, include_extras=True)
        _KEYS[part] = tuple(
            (
                one.name,
                next(note for note in get_args(hints[one.name]) if isinstance(note, Key)),
                one.default is not MISSING or one.default_factory is not MISSING,
            )
            for one in fields(part)
            if one.init
        )
    return _KEYS[part]


def as_json(value: Any) -> Any:
    """Return a value of a field as JSON has it."""
    if isinstance(value, JsonPart):
        return value.to_json()
    if isinstance(value, Mapping):
        return {name: as_json(part) for name, part in value.items()}
    return list(map(as_json, value)) if isinstance(value, (list, tuple)) else value


# --- readers of values that have to be right ----------------------------------------------------


def required_text(value: Any, where: str) -> str | None:
    """Return a text or None.

    Raises:
        DistilledFormatError: it is something else.
    """
    if value is not None and not isinstance(value, str):
        raise DistilledFormatError(f"{where!r} must be a text or null")
    return value


def part_of(kind: type[JsonPart], *, nullable: bool = False) -> Reader:
    """Return the reader of a part; null is taken for an empty one where it may be null."""

    def read(value: Any, where: str) -> JsonPart:
        if nullable and not isinstance(value, (Mapping, type(None))):
            raise DistilledFormatError(f"{where!r} must be an object or null")
        return kind.from_json({} if nullable and value is None else value, where)

    return read


def whole_between(least: int, most: int, of: str, *, nullable: bool = False) -> Reader:
    """Return the reader of a whole number, which raises for any other value."""

    def read(value: Any, where: str) -> int | None:
        if value is None and nullable:
            return None
        if type(value) is not int or not least <= value <= most:
            raise DistilledFormatError(
                f"`{where.rpartition('.')[2]}` of {of} must be a whole number up to {most:,}, got "
                f"{value!r:.40}"
            )
        return value

    return read


# --- readers of values that can be done without -------------------------------------------------


def text(value: Any, where: str) -> str | None:
    """Return a text, or None for anything else."""
    return value if isinstance(value, str) else None


def whole(value: Any, where: str) -> int | None:
    """Return a whole number, or None for anything else."""
    return value if type(value) is int else None


def wholes(value: Any, where: str) -> tuple[int, ...]:
    """Return whole numbers, or none if one is something else."""
    right = isinstance(value, (list, tuple)) and all(type(one) is int for one in value)
    return tuple(value) if right else ()


def number(value: Any, where: str = "") -> float | None:
    """Return a finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        converted = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return None
    return converted if math.isfinite(converted) else None


def numbers(value: Any, where: str) -> tuple[float, ...]:
    """Return the finite numbers of a list; none for anything else."""
    listed = value if isinstance(value, (list, tuple)) else ()
    return tuple(x for one in listed if (x := number(one)) is not None)


def shares(value: Any, where: str) -> tuple[float, ...]:
    """Return the numbers of a list that are from 0 to 1; none for anything else."""
    return tuple(x for x in numbers(value, where) if 0 <= x <= 1)


def flag(value: Any, where: str) -> bool:
    """Return whether a value is neither null, zero nor empty."""
    return bool(value)


Text = Annotated[str | None, Key(text)]
RequiredText = Annotated[str | None, Key(required_text)]
Whole = Annotated[int | None, Key(whole)]
Number = Annotated[float | None, Key(number)]
Numbers = Annotated[tuple[float, ...], Key(numbers)]
Flag = Annotated[bool, Key(flag)]
