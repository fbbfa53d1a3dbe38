"""Names that are set for a while and put back exactly, also when several contexts overlap.

`second_order` replaces functions of torch, class attributes and attributes of modules while it is
active. This file holds the bookkeeping: one process-wide record of what each name was before the
first context touched it, counted, so that contexts may nest and may end in any order and in any
thread, and the last one out restores.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

_ABSENT = object()


@dataclass
class _Entry:
    owner: Any
    name: str
    before: Any
    count: int


_lock = threading.RLock()
_entries: dict[tuple[int, str], _Entry] = {}


@dataclass(frozen=True)
class Patch:
    """One name to set: an attribute of a class or module, or a key of a dictionary.

    Attributes:
        owner: the class, the Python module, or the dictionary.
        name: attribute or key.
        value: what it is while the patch is applied.
    """

    owner: Any
    name: str
    value: Any


def _own_value(owner: Any, name: str) -> Any:
    names = owner if isinstance(owner, dict) else vars(owner)
    return names.get(name, _ABSENT)


def _set(owner: Any, name: str, value: Any) -> None:
    if isinstance(owner, MutableMapping):
        if value is _ABSENT:
            owner.pop(name, None)
        else:
            owner[name] = value
    elif value is _ABSENT:
        delattr(owner, name)
    else:
        setattr(owner, name, value)


def apply(patches: Iterable[Patch]) -> list[tuple[int, str]]:
    """Set every name, and return the tickets that `restore` takes.

    A name that another context has set already is only counted: the first value stays. On an
    error everything that this call did is undone.
    """
    tickets: list[tuple[int, str]] = []
    with _lock:
        try:
            for patch in patches:
                ticket = (id(patch.owner), patch.name)
                entry = _entries.get(ticket)
                if entry is None:
                    before = _own_value(patch.owner, patch.name)
                    _set(patch.owner, patch.name, patch.value)
                    # The entry holds the owner, so its id cannot be given to another object.
                    _entries[ticket] = _Entry(patch.owner, patch.name, before, 1)
                else:
                    entry.count += 1
                tickets.append(ticket)
        except BaseException:
            restore(tickets)
            raise
    return tickets


def restore(tickets: list[tuple[int, str]]) -> None:
    """Give tickets back; a name whose last ticket comes back is as it was before the first."""
    with _lock:
        for ticket in reversed(tickets):
            entry = _entries[ticket]
            entry.count -= 1
            if entry.count == 0:
                del _entries[ticket]
                _set(entry.owner, entry.name, entry.before)
