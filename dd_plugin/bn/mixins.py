"""The layer for stock classes that do more, or less, than `torch.nn.BatchNorm2d`.

Between `layer.py`, whose `LearnableStatistics` they specialize, and `variants.py`, which knows the
stock class of each. Each overrides only what its stock class does differently.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dd_plugin.bn import arithmetic
from dd_plugin.bn.distributed import global_moments, process_group_of
from dd_plugin.bn.guarded_eps import GuardedEps
from dd_plugin.bn.layer import LearnableStatistics
from dd_plugin.private import submodules_of

_HUB_EPS = 1e-5  # the constant in the code of the DETR family's layers


class SyncLearnable(LearnableStatistics):
    """Batch statistics over all processes, on any device and backend.

    The mathematics of `torch.nn.SyncBatchNorm`, which itself refuses CPU inputs.
    """

    def normalize_with_batch(self, x: Tensor) -> Tensor:
        """Normalize ``x`` with the moments over all processes."""
        group = process_group_of(self) if self.training else None
        if group is None:
            return super().normalize_with_batch(x)
        mean, var, count = global_moments(x, group)
        y = arithmetic.normalize(
            x, mean, var, weight=self.weight, bias=self.bias_seen_by_ddp(), eps=self.epsilon()
        )
        if self.moves_statistics():
            unbiased = arithmetic.unbiased(var, count)
            self.track_moments({"running_mean": mean, "running_var": unbiased}, count)
        return y

    def batch_moments(self, x: Tensor) -> tuple[Tensor, Tensor, int | Tensor]:
        """Return the moments over the batches of all processes."""
        group = process_group_of(self) if self.training else None
        return super().batch_moments(x) if group is None else global_moments(x, group)


class ActLearnable(LearnableStatistics):
    """timm's ``BatchNormAct2d``: normalization, then its ``drop``, then its ``act``."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Normalize, drop and activate ``x (N, C, H, W)``."""
        if x.dim() != 4:
            raise AssertionError(f"expected 4D input (got {x.dim()}D input)")
        return self.act(self.drop(self.normalize(x)))


class FrozenLearnable(LearnableStatistics):
    """A frozen BatchNorm, which normalizes with its running statistics in both modes.

    It never looks at a batch: "tracked" statistics are moved by nothing, and only their initial
    values and corrections can have a gradient. torchvision's, timm's and the DETR family's.
    """

    looks_at_batch = False
    num_batches_tracked = None
    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x (N, C, H, W)``, then drop and activate where the stock class does."""
        self.check_channels(x)
        effective = self.effective_statistics()
        # The stock classes' own order of operations, so that outputs are theirs to the bit.
        scale = self.weight * (effective["running_var"] + self.epsilon()).rsqrt()
        offset = self.bias - effective["running_mean"] * scale
        x = x * arithmetic.per_channel(scale, x) + arithmetic.per_channel(offset, x)
        if "drop" in submodules_of(self):
            x = self.drop(x)
        return self.act(x) if "act" in submodules_of(self) else x


class HubFrozenLearnable(FrozenLearnable):
    """The frozen BatchNorm of the DETR family in transformers, without an ``eps`` attribute."""

    eps: Any = GuardedEps(default=_HUB_EPS)

    def epsilon(self) -> float:
        """Return the constant of the stock class's code."""
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
        """Normalize ``x (N, C, H, W)``."""
        if x.dim() != 4:
            raise AssertionError("expected 4D input")
        self.check_channels(x)
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
        """Return the batch's or the running variance, whichever the mode and the policy say."""
        moves = self.moves_statistics()
        running = self.effective_statistics()["running_var"]
        if not (moves or self.uses_batch()):
            return running
        _, var, count = self.batch_moments(x)
        if moves:
            self.track_moments({"running_var": arithmetic.unbiased(var, count)}, count)
        return var if self.uses_batch() else running


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
