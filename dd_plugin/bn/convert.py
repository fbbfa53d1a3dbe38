"""`convert_bn` and `revert_bn`: the surgery itself; and `use_own_batches`, for the trainer.

Converting a layer gives the same object another class (as `torch.nn.utils.parametrize` does) and
makes its running statistics what the policy says. The object is not replaced, so everything that
hangs on it stays: hooks, names, parents that share it, parameters an optimizer holds, training
flag, device, dtype. The class remembers the stock class, and the way back needs no other record.
A note on the model lists what was converted, to find layers that something else has replaced since.
"""

from __future__ import annotations

import warnings
import weakref
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.utils import parametrize

from dd_plugin.bn.layer import LearnableStatistics
from dd_plugin.bn.local_sync import local_class
from dd_plugin.bn.plan import (
    Patterns,
    UnsupportedBatchNormError,
    check_is_module,
    forward_is_replaced,
    plan_conversion,
)
from dd_plugin.bn.policy import Statistics, TrainWith
from dd_plugin.bn.variants import learnable_class

Model = TypeVar("Model", bound=nn.Module)

_NOTE = "_dd_plugin_converted"
_reverted: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # their notes may be on a parent


class ConversionUndoneWarning(UserWarning):
    """Layers that were converted are stock layers again, and not through `revert_bn`."""


def convert_bn(
    model: Model,
    statistics: Statistics = "learned",
    train_with: TrainWith = "batch",
    *,
    include: Patterns = None,
    exclude: Patterns = None,
    missing_ok: bool = False,
) -> Model:
    """Give every BatchNorm-type layer of a model running statistics that gradients can reach.

    In place. Outputs do not change in either mode (``train_with="running"`` changes train mode),
    nor do ``state_dict`` keys; weights, optimizers, hooks and names stay valid. Frozen layers
    (torchvision's, timm's, the DETR family's) normalize with running statistics in both modes
    whatever the policy, as they always did.

    Args:
        model: any module; a BatchNorm layer itself is fine.
        statistics: who moves ``running_mean`` and ``running_var``: ``"learned"`` makes them
            parameters, ``"tracked"`` the moving average of training steps, ``"frozen"`` nobody.
        train_with: what train mode normalizes with, the ``"batch"`` or the ``"running"``
            statistics. Eval mode always uses the running ones.
        include: convert only layers whose qualified name matches this pattern, or one of these
            (shell style, ``*`` crosses dots; a pattern also matches everything below a module).
        exclude: leave these out; stronger than ``include``.
        missing_ok: return the model unchanged, instead of raising, where nothing is to convert.

    Returns:
        ``model`` itself. Layers that are converted already are switched to the policy; with the
        same policy nothing changes.

    Raises:
        NoBatchNormFoundError: nothing to convert, or a pattern that matches nothing.
        UnsupportedBatchNormError: a selected layer cannot be converted (TorchScript, lazy and not
            materialized, an unknown class, ...). The model is untouched then.
        ValueError, TypeError: an argument is not as described.
    """
    check_is_module(model)
    warn_if_undone(model)
    plan = plan_conversion(
        model, statistics, train_with, include=include, exclude=exclude, missing_ok=missing_ok
    )
    # Every class before any swap: a stock class may refuse to be subclassed.
    classes = [learnable_class(planned.stock_class, planned.family) for planned in plan.layers]
    for planned, learnable in zip(plan.layers, classes, strict=True):
        layer: Any = planned.layer
        if not isinstance(layer, LearnableStatistics):
            layer.__dict__.pop("forward", None)  # the stock class's own, or the plan had refused
            layer.__class__ = learnable
        layer.install_policy(statistics, train_with)
    _write_note(model)
    return model


def revert_bn(model: Model) -> Model:
    """Turn every layer that `convert_bn` made back into its stock class, statistics kept.

    In place. Eval-mode outputs do not change: what was learned, tracked and corrected is folded
    into ``running_mean`` and ``running_var``, a learned momentum into ``momentum``. A model
    without converted layers is returned as it is.

    Returns:
        ``model`` itself, with the classes and buffers it had before `convert_bn`.

    Raises:
        UnsupportedBatchNormError: a layer was parametrized, or its forward replaced, after its
            conversion. The model is untouched then.
    """
    check_is_module(model)
    layers: dict[str, Any] = {**converted_layers(model)}
    for name, layer in layers.items():
        if parametrize.is_parametrized(layer):
            raise UnsupportedBatchNormError(
                f"cannot revert {name!r}: it was parametrized after convert_bn; call "
                "torch.nn.utils.parametrize.remove_parametrizations on it first."
            )
        if forward_is_replaced(layer):
            raise UnsupportedBatchNormError(
                f"cannot revert {name!r}: its forward was replaced on the instance after "
                "convert_bn (accelerate's hooks do that) and goes on calling the converted "
                "layer's; remove the hook, revert, and add it again."
            )
    warn_if_undone(model)
    for name in undone_layers(model):
        _statistics_to_buffers(model.get_submodule(name))
    for layer in layers.values():
        layer.remove_policy()
        del layer.train_with
        layer.__dict__.pop("forward", None)
        layer.__class__ = layer.stock_class
        _reverted.add(layer)
    for module in model.modules():
        module.__dict__.pop(_NOTE, None)
    return model


def use_own_batches(model: Model) -> Model:
    """Have every SyncBatchNorm of a model normalize with the batch of its own process.

    In place, for stock layers and for those that `convert_bn` made; `revert_bn` then gives stock
    layers that do so. Weights, statistics, hooks and ``state_dict`` keys stay. A class of a user's
    own that normalizes by itself is not changed by this, and `convert_bn` refuses it.

    Args:
        model: any module; a layer itself is fine.

    Returns:
        ``model`` itself.
    """
    for module in model.modules():
        layer: Any = module
        converted = isinstance(layer, LearnableStatistics)
        stock = layer.stock_class if converted else type(layer)
        if not issubclass(stock, nn.SyncBatchNorm) or forward_is_replaced(layer):
            continue
        local = local_class(stock)
        layer.__dict__.pop("forward", None)  # the class's own, or it were replaced
        layer.__class__ = learnable_class(local) if converted else local
        layer.process_group = None
    return model


def converted_layers(model: nn.Module) -> dict[str, LearnableStatistics]:
    """Return the converted layers of a model: qualified name to layer, each once."""
    return {n: m for n, m in model.named_modules() if isinstance(m, LearnableStatistics)}


def tracking_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the momentum shifts and corrections of tracked layers: qualified name to scalar.

    They are buffers with a gradient only on request. To learn them with an ordinary optimizer,
    call ``requires_grad_()`` on them; under `torch.func.functional_call` pass tensors by these
    names.
    """
    for layer in converted_layers(model).values():
        layer.materialize_corrections()
    return {
        f"{name}.{correction}" if name else correction: layer.get_buffer(correction)
        for name, layer in converted_layers(model).items()
        if layer.statistics == "tracked"
        for correction in layer.correction_names()
    }


def undone_layers(model: nn.Module) -> dict[str, str]:
    """Return layers that `convert_bn` converted and that something else has replaced since.

    Returns:
        Qualified name to the name of the class that is there now. A layer that is gone altogether
        is not listed.
    """
    undone = {}
    for root, noted in model.named_modules():
        names = noted.__dict__.get(_NOTE, ())
        modules = dict(noted.named_modules(remove_duplicate=False)) if names else {}
        for name in names:
            layer = modules.get(name)
            if (
                layer is not None
                and not isinstance(layer, LearnableStatistics)
                and layer not in _reverted
                and "Norm" in type(layer).__name__
            ):
                undone[f"{root}.{name}" if root and name else root or name] = type(layer).__name__
    return undone


def warn_if_undone(model: nn.Module) -> None:
    """Warn of `undone_layers`: their statistics are out of reach of gradients again."""
    undone = undone_layers(model)
    if undone:
        name, kind = next(iter(undone.items()))
        warnings.warn(
            f"{len(undone)} layer(s) converted by convert_bn have been replaced since, {name!r} "
            f"for one is a {kind} now: utilities such as freeze_batch_norm_2d and "
            "convert_sync_batchnorm build new layers. Call them before convert_bn.",
            ConversionUndoneWarning,
            stacklevel=3,
        )


def _statistics_to_buffers(layer: nn.Module) -> None:
    """Undo what a copy of a converted layer's attributes leaves: statistics as parameters."""
    for name in ("running_mean", "running_var"):
        parameter = getattr(layer, name, None)
        if isinstance(parameter, nn.Parameter):
            delattr(layer, name)
            layer.register_buffer(name, parameter.detach())


def _write_note(model: nn.Module) -> None:
    names = tuple(converted_layers(model))
    for module in model.modules():
        module.__dict__.pop(_NOTE, None)
    if names:
        model.__dict__[_NOTE] = names
