"""Copies of a model, also of one whose weights a hook computes before each forward pass.

Used by `functional`, which needs the structure only, and by everything that keeps a prototype.
Pruning (`torch.nn.utils.prune`) and the hook-based `weight_norm` and `spectral_norm` leave the last
computed weight in an attribute of the module. torch refuses to copy such a tensor, since it belongs
to a graph. The hook computes it again before it is used, so a copy may hold the values alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod

from dd_plugin.private import input_hooks

Model = TypeVar("Model", bound=nn.Module)


def copy_structure(model: nn.Module) -> nn.Module:
    """Return a copy of the modules of a model that shares its parameters and buffers.

    Raises:
        TypeError: something in the model cannot be copied.
    """
    memo: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return _copied(model, memo, "the structure of ")


def copy_model(model: Model) -> Model:
    """Return a copy of a model that shares nothing with it, as `copy.deepcopy`.

    Raises:
        TypeError: something in the model cannot be copied.
    """
    return _copied(model, {}, "")


def _copied(model: Model, memo: dict[int, Any], what: str) -> Model:
    for _, tensor, is_recomputed in _computed_attributes(model):
        if is_recomputed:
            memo[id(tensor)] = tensor.detach().clone()
    try:
        return copy.deepcopy(model, memo)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise TypeError(
            f"{what}`model` ({type(model).__name__}) cannot be copied: {_cause(model, error)}"
        ) from error


def _computed_attributes(model: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    """Find attributes that hold a tensor of a graph: name, tensor, whether a hook computes it."""
    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                where = f"{prefix}.{name}" if prefix else name
                yield where, value, _is_recomputed(module, name)


def _is_recomputed(module: nn.Module, name: str) -> bool:
    hooks, _ = input_hooks(module)
    for hook in (hooks or {}).values():
        if isinstance(hook, BasePruningMethod) and hasattr(module, f"{name}_orig"):
            return True
        if type(hook).__name__ in ("WeightNorm", "SpectralNorm") and hook.name == name:
            return True
    return False


def _cause(model: nn.Module, error: Exception) -> str:
    names = [name for name, _, is_recomputed in _computed_attributes(model) if not is_recomputed]
    if names:
        return (
            f"`model.{names[0]}` is a tensor that was computed from others and remembers how, "
            f"which torch does not copy; store `model.{names[0]}.detach()` there, or compute it "
            "in `forward`"
        )
    return f"{error}; remove or replace the attribute that is in the way"
