"""The setting `baselines`: names of training images, from a list, one word or a switch.

Used by `config`, which reads the setting without torch, by `evaluating` and by the command line.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast, get_args

from dd_plugin.choices import BaselineName
from dd_plugin.distiller.coercion import switch
from dd_plugin.text import suggestion

AUTO, NONE, ALL = "auto", "none", "all"
NAMES = get_args(BaselineName)
# Those that are trained as the set is, where it has learned labels.
LABEL_CONTROLS: tuple[BaselineName, ...] = ("hard_labels", "learned_labels_on_random")
# Those whose images are chosen by networks that are trained for it.
BY_DIFFICULTY: tuple[BaselineName, ...] = ("easiest", "hardest")
_ALONE = (AUTO, NONE, ALL)
_MUST_BE = f"`baselines` must be auto, none, all, or some of {', '.join(NAMES)}"


def baseline_names(value: Any) -> list[str]:
    """Return the names that a value means: ``["auto"]``, some of `NAMES`, or none of them.

    Args:
        value: a list of names, one name, or a switch: true is ``"auto"``, false ``"none"``.
            ``"all"`` is every name.

    Raises:
        ValueError: it has other names, or ``"auto"``, ``"none"`` or ``"all"`` beside others.
    """
    several = isinstance(value, Iterable) and not isinstance(value, str)
    words = [_name(word) for word in (value if several else [value])]
    for word in words:
        if word not in (*NAMES, *_ALONE):
            meant = suggestion(word, [*NAMES, *_ALONE], quoted=True)
            hint = f"; {meant}" if meant else ""
            raise ValueError(f"{_MUST_BE}, got {word!r}{hint}")
    if len(set(words)) > 1 and set(_ALONE) & set(words):
        raise ValueError(f"{_MUST_BE}, got {' '.join(words)}; auto, none and all stand alone")
    if ALL in words:
        return list(NAMES)
    return [AUTO] if AUTO in words else [name for name in NAMES if name in words]


def chosen_baselines(value: Any) -> list[BaselineName] | None:
    """Return the names of training images that a value means; None for ``"auto"``.

    Raises:
        ValueError: see `baseline_names`.
    """
    names = baseline_names(value)
    return None if names == [AUTO] else [cast(BaselineName, name) for name in names]


def compared_with(value: Any) -> list[BaselineName]:
    """Return the names of what whole networks are compared with; see `baselines`."""
    names = chosen_baselines(value)
    return ["random_real", "full_data"] if names is None else names


def _name(word: Any) -> str:
    if word is None:
        return AUTO
    try:
        return AUTO if switch(word) else NONE
    except KeyError:
        return str(word)
