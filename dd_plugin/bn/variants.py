"""Which learnable class a stock class becomes: ready-made ones, families, and the class factory.

Between `mixins.py`, which has the layer for every family, and `convert.py`, which asks here for the
class to swap in. timm's and torchvision's classes are looked up where a model has imported them:
nobody else should pay for the import.

To support one more normalization layer: write a mixin in `mixins.py` and name it in `_family`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from dd_plugin.bn.layer import LearnableStatistics
from dd_plugin.bn.local_sync import LocalSyncBatchNorm
from dd_plugin.bn.mixins import (
    ActLearnable,
    EvoNormB0Learnable,
    EvoNormB1Learnable,
    EvoNormB2Learnable,
    FrozenLearnable,
    HubFrozenLearnable,
    SyncLearnable,
)
from dd_plugin.private import buffers_of, timm_layers, torchvision_frozen_norm

# The class that `BatchNorm1d`, `2d` and `3d` have in common.
BATCH_NORM_BASE: type[nn.Module] = next(
    cls for cls in nn.BatchNorm2d.__mro__ if "forward" in vars(cls)
)
# For isinstance: every BatchNorm of torch.
BATCH_NORMS: tuple[type[Any], ...] = (
    *(BATCH_NORM_BASE, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
)


def _reduced(layer: LearnableStatistics, protocol: Any) -> Any:
    """Pickle by the stock class, since a class made on the fly cannot be found by name."""
    state = super(LearnableStatistics, layer).__reduce_ex__(protocol)[2:]
    return (blank_layer, (layer.stock_class,), *state)


class LearnableBatchNorm1d(LearnableStatistics, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` with learnable statistics: input ``(N, C)`` or ``(N, C, L)``."""

    stock_class = nn.BatchNorm1d
    __module__ = nn.BatchNorm1d.__module__  # torch.fx takes modules of torch.nn as leaves
    __reduce_ex__ = _reduced


class LearnableBatchNorm2d(LearnableStatistics, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` with learnable statistics: input ``(N, C, H, W)``."""

    stock_class = nn.BatchNorm2d
    __module__ = nn.BatchNorm2d.__module__  # torch.fx takes modules of torch.nn as leaves
    __reduce_ex__ = _reduced


class LearnableBatchNorm3d(LearnableStatistics, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` with learnable statistics: input ``(N, C, D, H, W)``."""

    stock_class = nn.BatchNorm3d
    __module__ = nn.BatchNorm3d.__module__  # torch.fx takes modules of torch.nn as leaves
    __reduce_ex__ = _reduced


class Family(NamedTuple):
    """A stock base class, and the mixin that makes its subclasses learnable."""

    base: type[nn.Module]
    mixin: type[LearnableStatistics]


_TIMM = {
    "BatchNormAct2d": ActLearnable,
    "FrozenBatchNormAct2d": FrozenLearnable,
    "EvoNorm2dB0": EvoNormB0Learnable,
    "EvoNorm2dB1": EvoNormB1Learnable,
    "EvoNorm2dB2": EvoNormB2Learnable,
}
_READY_MADE: dict[type[nn.Module], type[LearnableStatistics]] = {
    nn.BatchNorm1d: LearnableBatchNorm1d,
    nn.BatchNorm2d: LearnableBatchNorm2d,
    nn.BatchNorm3d: LearnableBatchNorm3d,
}


def _family(stock: Any) -> Family | None:
    """Return the family of a stock class: that of its nearest ancestor which has one."""
    timm, frozen = timm_layers(), torchvision_frozen_norm()
    known: dict[type[nn.Module], type[LearnableStatistics]] = {
        LocalSyncBatchNorm: LearnableStatistics,
        nn.SyncBatchNorm: SyncLearnable,
        BATCH_NORM_BASE: LearnableStatistics,
    }
    if timm is not None:
        known |= {getattr(timm, n): m for n, m in _TIMM.items() if hasattr(timm, n)}
    if frozen is not None:
        known[frozen] = FrozenLearnable
    for ancestor in stock.__mro__:
        if ancestor in _READY_MADE:
            return Family(ancestor, LearnableStatistics)
        if ancestor in known:
            return Family(ancestor, known[ancestor])
    return None


def family_of(layer: nn.Module) -> Family | None:
    """Return the family of a layer, None for what is no BatchNorm-type layer known here."""
    family = _family(type(layer))
    if family is None and is_hub_frozen(layer):
        return Family(type(layer), HubFrozenLearnable)
    return family


def is_hub_frozen(layer: nn.Module) -> bool:
    """Return whether a layer is a ``*FrozenBatchNorm2d`` that a model file brings along.

    They have no common ancestor but `torch.nn.Module`; the name and four buffers tell them.
    """
    return type(layer).__name__.endswith("FrozenBatchNorm2d") and (
        {"weight", "bias", "running_mean", "running_var"} <= buffers_of(layer).keys()
    )


def follows_its_base(stock: type[nn.Module], base: type[nn.Module]) -> bool:
    """Return whether every ``forward`` between ``stock`` and ``base`` ends in ``super().forward``.

    If so, a learnable base placed behind ``stock`` in the method resolution order is what such a
    forward calls. A forward that normalizes by itself would bypass it.
    """
    for ancestor in stock.__mro__[: stock.__mro__.index(base)]:
        forward = ancestor.__dict__.get("forward")
        if forward is None:
            continue
        code = getattr(forward, "__code__", None)
        if code is None or "__class__" not in code.co_freevars or "forward" not in code.co_names:
            return False
        if {"batch_norm", "native_batch_norm"} & set(code.co_names):
            return False
    return True


def _reads_eps(stock: type[nn.Module], base: type[nn.Module]) -> bool:
    """Return whether a ``forward`` between ``stock`` and ``base`` reads ``eps`` itself."""
    between = stock.__mro__[: stock.__mro__.index(base)]
    codes = [getattr(ancestor.__dict__.get("forward"), "__code__", None) for ancestor in between]
    return any(code is not None and "eps" in code.co_names for code in codes)


_classes: dict[type[nn.Module], type[LearnableStatistics]] = dict(_READY_MADE)


def learnable_class(stock: type[nn.Module], family: Family | None = None) -> type[Any]:
    """Return the learnable subclass of ``stock``, made once.

    The class is a subclass of ``stock`` (isinstance checks in model code hold), has "BatchNorm" in
    its name when that has (some model code looks), and says that it lives in the module of
    ``stock``, because `torch.fx` treats modules of ``torch.nn`` as leaves and should go on to.
    """
    if stock in _classes:
        return _classes[stock]
    family = family or _family(stock) or Family(stock, HubFrozenLearnable)
    namespace: dict[str, Any] = {
        "stock_class": stock,
        "guards_eps": not _reads_eps(stock, family.base),
        "__module__": stock.__module__,
        "__doc__": stock.__doc__,
    }
    bases: tuple[type[nn.Module], ...]
    if stock is family.base:
        bases = (family.mixin, stock)
        namespace["__reduce_ex__"] = _reduced
    else:
        bases = (stock, learnable_class(family.base, family))
    learnable = type(f"Learnable{stock.__name__}", bases, namespace)
    _classes[stock] = learnable
    return learnable


def blank_layer(stock: type[nn.Module]) -> nn.Module:
    """Return a learnable layer without state, for unpickling and copying to fill."""
    layer: nn.Module = object.__new__(learnable_class(stock))
    return layer
