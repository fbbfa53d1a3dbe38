"""The plan of a conversion, made before anything is changed.

`plan_conversion` walks a model, finds every BatchNorm-type layer, selects by name, and checks that
each selected layer can be converted. `convert.py` carries a plan out; ``dd-plugin inspect`` prints
one. A model that cannot be converted is refused here and stays untouched.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from dd_plugin.bn.layer import LearnableStatistics
from dd_plugin.bn.policy import Statistics, TrainWith, check_policy
from dd_plugin.bn.variants import Family, family_of, follows_its_base
from dd_plugin.private import buffers_of, buffers_without_checkpoint

Patterns = str | Sequence[str] | None

_WRAPPERS = ("DistributedDataParallel", "FullyShardedDataParallel", "DataParallel")


class NoBatchNormFoundError(ValueError):
    """The model, or the selected part of it, has no BatchNorm-type layer."""


class UnsupportedBatchNormError(ValueError):
    """A BatchNorm-type layer, or the way it is wrapped, cannot be converted."""


@dataclass(frozen=True)
class PlannedLayer:
    """One layer to convert.

    Attributes:
        names: every qualified name of the layer in the model; several when parents share it.
        layer: the layer itself.
        stock_class: its class, or what that was before an earlier conversion.
        family: which learnable variant it becomes; None when it is converted already.
    """

    names: tuple[str, ...]
    layer: nn.Module
    stock_class: type[nn.Module]
    family: Family | None

    @property
    def name(self) -> str:
        """Return the first of `names`; empty for the root."""
        return self.names[0]


@dataclass(frozen=True)
class ConversionPlan:
    """The effect of `convert_bn` on a model.

    Attributes:
        layers: the layers that would be converted, or switched to the policy.
        unselected: names of BatchNorm-type layers that ``include`` / ``exclude`` leave alone.
        other_norms: class name to count of the normalization layers that are not BatchNorm.
        statistics: the policy's first half.
        train_with: the policy's second half.
    """

    layers: tuple[PlannedLayer, ...]
    unselected: tuple[str, ...]
    other_norms: dict[str, int]
    statistics: Statistics
    train_with: TrainWith


def plan_conversion(
    model: nn.Module,
    statistics: Statistics = "learned",
    train_with: TrainWith = "batch",
    *,
    include: Patterns = None,
    exclude: Patterns = None,
    missing_ok: bool = False,
) -> ConversionPlan:
    """Return what `convert_bn` would do with the same arguments. Changes nothing.

    Raises:
        NoBatchNormFoundError, UnsupportedBatchNormError, ValueError, TypeError: as `convert_bn`.
    """
    check_policy(statistics, train_with)
    check_is_module(model)
    include, exclude = _as_patterns(include, "include"), _as_patterns(exclude, "exclude")
    _check_not_wrapped(model)
    batch_norms = find_batch_norms(model)
    other_norms = _other_norms(model, batch_norms)
    selected = [p for p in batch_norms if _is_selected(p.names, include, exclude)]
    unselected = tuple(p.name for p in batch_norms if p not in selected)
    if not missing_ok:
        _check_something_selected(model, batch_norms, selected, other_norms)
        _check_patterns_match(batch_norms, (*(include or ()), *(exclude or ())))
    for planned in selected:
        _check_convertible(planned)
    return ConversionPlan(
        tuple(selected), unselected, other_norms, statistics=statistics, train_with=train_with
    )


def check_is_module(model: object) -> None:
    """Raise TypeError unless ``model`` is a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}")


def forward_is_replaced(layer: nn.Module) -> bool:
    """Return whether the instance has another forward than its class.

    Removing one of accelerate's hooks leaves the class's forward, bound, which is no other.
    """
    forward = layer.__dict__.get("forward")
    return forward is not None and getattr(forward, "__func__", None) is not type(layer).forward


def find_batch_norms(model: nn.Module) -> list[PlannedLayer]:
    """Return every BatchNorm-type layer of a model, once each, in the order of `named_modules`."""
    names: dict[int, list[str]] = {}
    layers: dict[int, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
        layers[id(module)] = module
    return [
        PlannedLayer(tuple(names[key]), layer, _stock_class(layer), family_of(layer))
        for key, layer in layers.items()
        if _is_batch_norm(layer)
    ]


def _stock_class(layer: nn.Module) -> type[nn.Module]:
    return layer.stock_class if isinstance(layer, LearnableStatistics) else type(layer)


def _is_batch_norm(layer: nn.Module) -> bool:
    if isinstance(layer, torch.jit.ScriptModule):
        return "BatchNorm" in getattr(layer, "original_name", "")
    if family_of(layer) is not None:
        return True
    # Called BatchNorm, with running statistics, but of no class that is known here.
    return "BatchNorm" in type(layer).__name__ and "running_var" in buffers_of(layer)


def _other_norms(model: nn.Module, layers: Iterable[PlannedLayer]) -> dict[str, int]:
    """Return class names, with counts, of normalization layers that are no BatchNorm."""
    batch_norms = {id(planned.layer) for planned in layers}
    names = Counter(
        type(module).__name__
        for module in model.modules()
        if id(module) not in batch_norms and not any(True for _ in module.children())
    )
    return {name: count for name, count in sorted(names.items()) if "norm" in name.lower()}


def _as_patterns(patterns: Patterns, argument: str) -> tuple[str, ...] | None:
    if patterns is None:
        return None
    listed = (patterns,) if isinstance(patterns, str) else patterns
    if (
        not isinstance(listed, Iterable)
        or not (as_tuple := tuple(listed))
        or not all(isinstance(pattern, str) for pattern in as_tuple)
    ):
        raise TypeError(
            f"`{argument}` must be a name pattern or a non-empty sequence of them, got {patterns!r}"
        )
    return as_tuple


def _matches(names: Iterable[str], patterns: Iterable[str]) -> bool:
    """Return whether a pattern matches one of the names, or a module that a name lies below."""
    return any(
        fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*")
        for name in names
        for pattern in patterns
    )


def _is_selected(
    names: tuple[str, ...], include: tuple[str, ...] | None, exclude: tuple[str, ...] | None
) -> bool:
    if exclude is not None and _matches(names, exclude):
        return False
    return include is None or _matches(names, include)


def _listed(names: Sequence[str], at_most: int = 8) -> str:
    shown = ", ".join(name or "(the root)" for name in names[:at_most])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > at_most else shown


def _check_something_selected(
    model: nn.Module,
    batch_norms: list[PlannedLayer],
    selected: list[PlannedLayer],
    other_norms: dict[str, int],
) -> None:
    if selected:
        return
    if batch_norms:
        raise NoBatchNormFoundError(
            "`include` and `exclude` select none of this model's BatchNorm layers, which are: "
            + _listed([planned.name for planned in batch_norms])
        )
    counts = ", ".join(f"{count} {name}" for name, count in other_norms.items())
    raise NoBatchNormFoundError(
        f"{type(model).__name__} has no BatchNorm layer to convert; the normalization layers it "
        f"has are: {counts or 'none'}. It can be used as it is; pass missing_ok=True to let "
        "convert_bn return it unchanged."
    )


def _check_patterns_match(batch_norms: list[PlannedLayer], patterns: Iterable[str]) -> None:
    for pattern in patterns:
        if not any(_matches(planned.names, [pattern]) for planned in batch_norms):
            raise NoBatchNormFoundError(
                f"the pattern {pattern!r} matches none of this model's BatchNorm layers, which "
                "are: " + _listed([planned.name for planned in batch_norms])
            )


def _check_not_wrapped(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if type(module).__name__ in _WRAPPERS:
            raise UnsupportedBatchNormError(
                f"{name or 'the model'} is wrapped in {type(module).__name__}, which has already "
                "recorded its parameters; pass the module inside (`model.module`) and wrap "
                "afterwards."
            )


def _check_convertible(planned: PlannedLayer) -> None:
    """Raise UnsupportedBatchNormError for a layer that cannot be converted."""
    layer, kind = planned.layer, type(planned.layer).__name__

    def refuse(cause: str, remedy: str) -> UnsupportedBatchNormError:
        where = repr(planned.name) if planned.name else "the model itself"
        return UnsupportedBatchNormError(f"cannot convert {where} ({kind}): {cause}; {remedy}.")

    if isinstance(layer, torch.jit.ScriptModule):
        raise refuse(
            "it is compiled TorchScript, whose code is fixed",
            "convert the Python model that it was compiled from; torch.jit.trace takes a converted "
            "model, torch.jit.script takes it after revert_bn",
        )
    if parametrize.is_parametrized(layer):
        raise refuse(
            "it has parametrizations, which replaced its class",
            "convert before parametrizing, or remove_parametrizations first",
        )
    if forward_is_replaced(layer):
        raise refuse(
            "its forward was replaced on the instance (accelerate's hooks do that), so a new "
            "class would have no effect",
            "remove the hook, convert, and add it again",
        )
    if isinstance(layer, LearnableStatistics):
        return
    if isinstance(layer, LazyModuleMixin):  # its first forward gives it its final class
        raise refuse(
            "it is lazy and does not know its number of channels yet",
            "run one batch through the model first",
        )
    remedy = (
        "leave it out with `exclude`, or write a mixin for it in dd_plugin.bn.mixins and name it "
        "in dd_plugin.bn.variants"
    )
    if planned.family is None:
        raise refuse("its class is not known here", remedy)
    if not follows_its_base(type(layer), planned.family.base):
        raise refuse(
            f"its class normalizes in a forward of its own instead of calling "
            f"{planned.family.base.__name__}'s",
            remedy,
        )
    statistics = {"running_mean", "running_var"}
    if statistics & buffers_without_checkpoint(layer):
        raise refuse("its running statistics are not in its state_dict", remedy)
    if statistics & dict(layer.named_parameters(recurse=False)).keys():
        raise refuse(
            "its running statistics are parameters, as when convert_sync_batchnorm or the like "
            "rebuilt a converted layer",
            "call revert_bn(model) first, which makes them buffers again, or leave the layer out "
            "with `exclude`",
        )
    if any(buffer.is_inference() for buffer in layer.buffers(recurse=False)):
        raise refuse(
            "its running statistics were made inside torch.inference_mode, so they can never have "
            "a gradient",
            "build or load the model outside of it",
        )
