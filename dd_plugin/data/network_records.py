"""The networks that a recipe names, and reading them out of a file that anyone may have written.

Used by `recipe`, of which they are a part.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

# Arguments of a model that could make loading it read other files or run other code.
_NO_MODEL_ARGUMENT = re.compile(
    r"_.*|pretrained_cfg.*|checkpoint_path|cache_dir|trust_remote_code|auto_map|scriptable"
    r"|exportable|no_jit|code_revision|file|url|hf_hub_id|name_or_path"
)
MOST_NETWORKS = 100


@dataclass(frozen=True)
class BackboneRecord:
    """A frozen network that a set was distilled for.

    Attributes:
        model: its name, or None for one that has none.
        fingerprint: of its weights, see `dd_plugin.networks`.
        revision: of the Hub, where it is known.
        size: height and width of its input.
        num_features: length of its features.
        mean: of each channel of its input, in units of pixels in [0, 1].
        std: likewise, the standard deviation.
        feature_layer: the layer whose output they are, where it had to be named.
    """

    model: str | None
    fingerprint: str
    revision: str | None
    size: tuple[int, int]
    num_features: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    feature_layer: str | None = None


@dataclass(frozen=True)
class NetworkRecord:
    """A network that is trained from scratch, one of several that a set was distilled for.

    Attributes:
        model: its name, or None for one that has none.
        model_args: its arguments.
    """

    model: str | None
    model_args: Mapping[str, Any] = field(default_factory=dict)


def label_of(names: Sequence[str], place: int) -> str:
    """Return the name of a network in tables, numbered where others have the same."""
    name = names[place]
    if not name:
        return f"network {place + 1}"
    return f"{name}:{names[: place + 1].count(name)}" if names.count(name) > 1 else name


def check_arguments(model_args: Mapping[str, Any]) -> None:
    """Refuse arguments that could do more than shape a network.

    Raises:
        ValueError: there is one.
    """
    for name in model_args:
        if _NO_MODEL_ARGUMENT.fullmatch(name):
            raise ValueError(
                f"`model_args` of the recipe has {name!r}, which could load other files or code "
                "and has no place in a recipe"
            )


def network_from(values: Any) -> NetworkRecord:
    """Return one of a recipe's networks from the values in a file.

    Raises:
        ValueError: something of it is not what it has to be.
    """
    fine = (
        isinstance(values, Mapping)
        and set(values) == {"model", "model_args"}
        and type(values["model"]) in (str, type(None))
        and is_plain_object(values["model_args"])
    )
    if not fine:
        raise ValueError(
            "`networks` of the recipe must hold objects with a name (or null) and an object of "
            f"plain `model_args`, got {values!s:.120}"
        )
    check_arguments(values["model_args"])
    return NetworkRecord(values["model"], dict(values["model_args"]))


def backbone_from(values: Any) -> BackboneRecord:
    """Return one of a recipe's backbones from the values in a file.

    Raises:
        ValueError: something of it is not what it has to be.
    """
    names = {f.name: f for f in fields(BackboneRecord)}
    kinds: dict[str, Any] = {
        "model": (str, type(None)),
        "fingerprint": (str,),
        "revision": (str, type(None)),
        "num_features": (int,),
        "feature_layer": (str, type(None)),
    }
    if not isinstance(values, Mapping) or set(values) - set(names):
        raise ValueError(f"`backbones` of the recipe must hold objects of {', '.join(names)}")
    size = values.get("size")
    scale = [values.get(name) for name in ("mean", "std")]
    fine = (
        isinstance(size, (list, tuple))
        and len(size) == 2
        and all(type(n) is int and 0 < n <= 1 << 16 for n in size)
        and all(type(values.get(name)) in kind for name, kind in kinds.items())
        and values["num_features"] > 0
        and all(
            isinstance(part, (list, tuple))
            and len(part) == 3
            and all(type(x) in (int, float) and math.isfinite(x) for x in part)
            for part in scale
        )
        and min(values["std"]) > 0
    )
    if not fine:
        raise ValueError(
            "`backbones` of the recipe must hold a name, a fingerprint, sizes and a normalization, "
            f"got {dict(values)!s:.120}"
        )
    tuples = {name: tuple(values[name]) for name in ("size", "mean", "std")}
    return BackboneRecord(**{**values, **tuples})


def is_plain_object(value: Any) -> bool:
    """Return whether a value is a dictionary of plain values and lists of these."""

    def plain(item: Any) -> bool:
        if isinstance(item, (list, tuple)):
            return all(type(x) in (str, int, float, bool, type(None)) for x in item)
        return type(item) in (str, int, float, bool, type(None))

    return isinstance(value, Mapping) and all(
        type(key) is str and plain(item) for key, item in value.items()
    )
