"""The attribute that is read by all code that takes a BatchNorm layer apart.

Part of `policy.py`, whose classes have it as ``eps``. With it they refuse to be fused or rebuilt
from statistics that are not the ones they normalize with.
"""

from __future__ import annotations

from typing import Any


class GuardedEps:
    """The attribute ``eps``, which cannot be read while the stored statistics mislead.

    Whatever fuses a layer into a convolution, or builds another layer in its place, reads
    ``running_mean``, ``running_var`` and ``eps``. With a correction, or a variance below zero, the
    first two are not what the layer normalizes with, and the result would be silently wrong.

    Args:
        default: the value of layers that store none; None where they have no ``eps`` then.
    """

    def __init__(self, default: float | None = None) -> None:
        self._default = default

    def __get__(self, layer: Any, owner: type) -> Any:
        if layer is None:
            return self
        if "eps" not in layer.__dict__ and self._default is None:
            raise AttributeError(f"{type(layer).__name__!r} object has no attribute 'eps'")
        if layer.guards_eps and not layer.stored_is_effective():
            raise RuntimeError(
                "`eps` of a converted BatchNorm layer was read, as by code that fuses or rebuilds "
                "BatchNorm layers. Such code takes the stored statistics, and this layer "
                "normalizes with others: it has a correction, or a variance below zero. Call "
                "dd_plugin.revert_bn(model) first; it folds both into ordinary layers."
            )
        return layer.__dict__.get("eps", self._default)

    def __set__(self, layer: Any, value: float) -> None:
        layer.__dict__["eps"] = value
        keep_readable(layer)


def keep_readable(layer: Any) -> None:
    """Put the value where the layer's own arithmetic reads it.

    It has another name, since Dynamo of torch 2.11 takes ``layer.__dict__["eps"]`` for the
    attribute, and would follow the guard into the values of the statistics.
    """
    if "eps" in layer.__dict__:
        layer.__dict__["unguarded_eps"] = layer.__dict__["eps"]


def put_away(layer: Any) -> None:
    """Undo `keep_readable`."""
    layer.__dict__.pop("unguarded_eps", None)
