"""The settings of a run as texts: group, default and choices of each by name.

Used by the command line and the pages of the documentation, which show the fields of `settings`.
"""

from __future__ import annotations

from dataclasses import fields
from typing import get_type_hints

from dd_plugin.distiller.coercion import choices
from dd_plugin.distiller.settings import GROUPS, Settings


def setting_groups() -> dict[str, str]:
    """Return the group of every setting, in the order of the fields."""
    return {f.name: title for title, group in GROUPS.items() for f in fields(group)}


def setting_defaults() -> dict[str, str]:
    """Return the default of every setting as one would type it; empty where there is none."""
    texts = {}
    for name, value in vars(Settings()).items():
        words = value if isinstance(value, list) else [] if value in (None, "") else [value]
        texts[name] = " ".join(str(w).lower() if isinstance(w, bool) else str(w) for w in words)
    return texts


def setting_choices() -> dict[str, tuple[str, ...]]:
    """Return the values of every setting that has a fixed set of them."""
    # Not the types of `fields`: a parser of arguments puts others in their place.
    every = {name: choices(hint) for name, hint in get_type_hints(Settings).items()}
    return {name: values for name, values in every.items() if values}
