"""Which learnable class a stock class becomes: the variants of the layer, and the class factory.

Between `layer.py`, whose mixin the variants specialise, and `convert.py`, which asks here for the
class to swap in. Each variant names the stock class it stands for and overrides only what that
class does differently. timm's and torchvision's classes are looked up in ``sys.modules``: a model
that contains them has imported them, and nobody else should pay for the import.

To support one more normalisation layer: write a mixin here and return it from `_family`.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dd_plugin.bn import arithmetic
from dd_plugin.bn.distributed import global_moments, process_group_of
from dd_plugin.bn.guarded_eps import GuardedEps
from dd_plugin.bn.layer import (
    LearnableBatchNorm1d,
    LearnableBatchNorm2d,
    LearnableBatchNorm3d,
    LearnableStatistics,
)
from dd_plugin.bn.local_sync import UnsynchronisedBatchNorm
from dd_plugin.bn.private import BATCH_NORM_BASE

_HUB_EPS = 1e-5  # the constant in the code of the DETR family's layers


class SyncLearnable(LearnableStatistics):
    """Batch statistics over all processes, on any device and backend.

    The mathematics of `torch.nn.SyncBatchNorm`, which itself refuses CPU inputs.
    """

    def _normalize_with_batch(self, x: Tensor) -> Tensor:
        group = process_group_of(self) if self.training else None
        if group is None:
            return super()._normalize_with_batch(x)
        mean, var, count = global_moments(x, group)
        y = arithmetic.normalize(
            x, mean, var, self.weight, self._bias_seen_by_ddp(), self.epsilon()
        )
        if self._moves_statistics():
            unbiased = arithmetic.unbiased(var, count)
            self._track({"running_mean": mean, "running_var": unbiased}, count)
        return y

    def batch_moments(self, x: Tensor) -> tuple[Tensor, Tensor, int | Tensor]:
        """Over the batches of all processes."""
        group = process_group_of(self) if self.training else None
        return super().batch_moments(x) if group is None else global_moments(x, group)


class ActLearnable(LearnableStatistics):
    """timm's ``BatchNormAct2d``: normalisation, then its ``drop``, then its ``act``."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, drop and activate ``x (N, C, H, W)``."""
        if x.dim() != 4:
            raise AssertionError(f"expected 4D input (got {x.dim()}D input)")
        return self.act(self.drop(self.normalize(x)))


class FrozenLearnable(LearnableStatistics):
    """A frozen BatchNorm, which normalises with its running statistics in both modes.

    It never looks at a batch: "tracked" statistics are moved by nothing, and only their initial
    values and corrections can have a gradient. torchvision's, timm's and the DETR family's.
    """

    looks_at_batch = False
    num_batches_tracked = None
    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x (N, C, H, W)``, then drop and activate where the stock class does."""
        self._check_channels(x)
        effective = self.effective_statistics()
        # The stock classes' own order of operations, so that outputs are theirs to the bit.
        scale = self.weight * (effective["running_var"] + self.epsilon()).rsqrt()
        offset = self.bias - effective["running_mean"] * scale
        x = x * arithmetic.per_channel(scale, x) + arithmetic.per_channel(offset, x)
        if "drop" in self._modules:
            x = self.drop(x)
        return self.act(x) if "act" in self._modules else x


class HubFrozenLearnable(FrozenLearnable):
    """The DETR family's copies of it in transformers, which have no ``eps`` attribute."""

    eps: Any = GuardedEps(default=_HUB_EPS)

    def epsilon(self) -> float:
        """See `LearnableStatistics.epsilon`."""
        return _HUB_EPS


class EvoNormB0Learnable(LearnableStatistics):
    """timm's ``EvoNorm2dB0``: the batch variance against the instance's (arXiv 2004.02967)."""

    statistics_names = ("running_var",)
    running_mean = None
    num_batches_tracked = None
    track_running_stats = True
    apply_act: bool
    v: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x (N, C, H, W)``."""
        if x.dim() != 4:
            raise AssertionError("expected 4D input")
        self._check_channels(x)
        y = arithmetic.at_least_float32(x)
        if self._has_nonlinearity():
            var = self._variance(y)
            left = arithmetic.per_channel(var.add(self.epsilon()).sqrt(), x)
            y = y / torch.maximum(left, self._instance_term(y))
        assert self.weight is not None
        assert self.bias is not None
        weight, bias = (arithmetic.per_channel(p, x) for p in (self.weight, self.bias))
        return (y * weight + bias).to(x.dtype)

    def _has_nonlinearity(self) -> bool:
        return self.v is not None

    def _instance_term(self, x: Tensor) -> Tensor:
        std = x.var(dim=(2, 3), unbiased=False, keepdim=True).add(self.epsilon()).sqrt()
        assert self.v is not None
        return x * arithmetic.per_channel(self.v, x) + std

    def _variance(self, x: Tensor) -> Tensor:
        """The batch's or the running variance, whichever the mode and the policy say."""
        moves = self._moves_statistics()
        running = self.effective_statistics()["running_var"]
        if not (moves or self._normalizes_with_batch()):
            return running
        _, var, count = self.batch_moments(x)
        if moves:
            self._track({"running_var": arithmetic.unbiased(var, count)}, count)
        return var if self._normalizes_with_batch() else running


class EvoNormB1Learnable(EvoNormB0Learnable):
    """timm's ``EvoNorm2dB1``."""

    def _has_nonlinearity(self) -> bool:
        return self.apply_act

    def _instance_term(self, x: Tensor) -> Tensor:
        return (x + 1) * self._instance_rms(x)

    def _instance_rms(self, x: Tensor) -> Tensor:
        return x.square().mean(dim=(2, 3), keepdim=True).add(self.epsilon()).sqrt()


class EvoNormB2Learnable(EvoNormB1Learnable):
    """timm's ``EvoNorm2dB2``."""

    def _instance_term(self, x: Tensor) -> Tensor:
        return self._instance_rms(x) - x


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
    """The family of a stock class: that of the nearest class in its ancestry which has one."""
    timm_layers = sys.modules.get("timm.layers")
    torchvision_misc = sys.modules.get("torchvision.ops.misc")
    known: dict[type[nn.Module], type[LearnableStatistics]] = {
        UnsynchronisedBatchNorm: LearnableStatistics,
        nn.SyncBatchNorm: SyncLearnable,
        BATCH_NORM_BASE: LearnableStatistics,
    }
    if timm_layers is not None:
        known |= {getattr(timm_layers, n): m for n, m in _TIMM.items() if hasattr(timm_layers, n)}
    if torchvision_misc is not None:
        known[torchvision_misc.FrozenBatchNorm2d] = FrozenLearnable
    for ancestor in stock.__mro__:
        if ancestor in _READY_MADE:
            return Family(ancestor, LearnableStatistics)
        if ancestor in known:
            return Family(ancestor, known[ancestor])
    return None


def family_of(layer: nn.Module) -> Family | None:
    """The family of a layer, or None where it is not a BatchNorm-type layer that is known here."""
    family = _family(type(layer))
    if family is None and is_hub_frozen(layer):
        return Family(type(layer), HubFrozenLearnable)
    return family


def is_hub_frozen(layer: nn.Module) -> bool:
    """Whether a layer is one of the ``*FrozenBatchNorm2d`` modules that model files bring along.

    They have no common ancestor but `torch.nn.Module`; the name and four buffers tell them.
    """
    return type(layer).__name__.endswith("FrozenBatchNorm2d") and (
        {"weight", "bias", "running_mean", "running_var"} <= layer._buffers.keys()
    )


def follows_its_base(stock: type[nn.Module], base: type[nn.Module]) -> bool:
    """Whether every ``forward`` between ``stock`` and ``base`` ends in ``super().forward``.

    If so, a learnable base placed behind ``stock`` in the method resolution order is what such a
    forward calls. A forward that normalises by itself would bypass it.
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
    """Whether a ``forward`` between ``stock`` and ``base`` reads ``eps`` for a use of its own."""
    between = stock.__mro__[: stock.__mro__.index(base)]
    codes = [getattr(ancestor.__dict__.get("forward"), "__code__", None) for ancestor in between]
    return any(code is not None and "eps" in code.co_names for code in codes)


_classes: dict[type[nn.Module], type[LearnableStatistics]] = dict(_READY_MADE)


def learnable_class(stock: type[nn.Module], family: Family | None = None) -> type[Any]:
    """The learnable subclass of ``stock``, made once.

    The class is a subclass of ``stock`` (isinstance checks in model code hold), has "BatchNorm" in
    its name when that has (some model code looks), and says that it lives in the module of
    ``stock``, because `torch.fx` treats modules of ``torch.nn`` as leaves and should go on to.
    """
    if stock in _classes:
        return _classes[stock]
    family = family or _family(stock) or Family(stock, HubFrozenLearnable)
    namespace = {
        "stock_class": stock,
        "guards_eps": not _reads_eps(stock, family.base),
        "__module__": stock.__module__,
        "__doc__": stock.__doc__,
    }
    bases: tuple[type[nn.Module], ...]
    if stock is family.base:
        bases = (family.mixin, stock)
    else:
        bases = (stock, learnable_class(family.base, family))
    made = type(f"Learnable{stock.__name__}", bases, namespace)
    _classes[stock] = made
    return made


def blank_layer(stock: type[nn.Module]) -> nn.Module:
    """A learnable layer without state, for unpickling and copying to fill."""
    made = learnable_class(stock)
    layer: nn.Module = object.__new__(made)
    return layer
