"""The setting `baselines`: names of real images, from a list, one word or a switch.

Used by `config`, which reads the setting without torch, and by `evaluating`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast, get_args

from dd_plugin.choices import BaselineName
from dd_plugin.distiller.coercion import switch
from dd_plugin.text import suggestion

AUTO, NONE = "auto", "none"
NAMES = get_args(BaselineName)


def baseline_names(value: Any) -> list[str]:
    """Return the names that a value means: ``["auto"]``, some of `NAMES`, or none of them.

    Args:
        value: a list of names, one name, or a switch: true is ``"auto"``, false ``"none"``.

    Raises:
        ValueError: it has other names, or ``"auto"`` or ``"none"`` beside others.
    """
    several = isinstance(value, Iterable) and not isinstance(value, str)
    words = [_name(word) for word in (value if several else [value])]
    for word in words:
        if word not in (*NAMES, AUTO, NONE):
            meant = suggestion(word, [*NAMES, AUTO, NONE], quoted=True)
            hint = f"; {meant}" if meant else ""
            raise ValueError(
                f"`baselines` must be auto, none, or some of {', '.join(NAMES)}, got {word!r}{hint}"
            )
    if len(set(words)) > 1 and {AUTO, NONE} & set(words):
        raise ValueError(
            f"`baselines` must be auto, none, or some of {', '.join(NAMES)}, got "
            f"{' '.join(words)}; auto and none stand alone"
        )
    return [AUTO] if AUTO in words else [name for name in NAMES if name in words]


def chosen_baselines(value: Any) -> list[BaselineName] | None:
    """Return the names of real images that a value means; None for ``"auto"``.

    Raises:
        ValueError: see `baseline_names`.
    """
    names = baseline_names(value)
    return None if names == [AUTO] else [cast(BaselineName, name) for name in names]


def compared_with(value: Any) -> list[BaselineName]:
    """Return the names of real images that whole networks are compared with; see `baselines`."""
    names = chosen_baselines(value)
    return ["random_real", "full_data"] if names is None else names


def _name(word: Any) -> str:
    if word is None:
        return AUTO
    try:
        return AUTO if switch(word) else NONE
    except KeyError:
        return str(word)
