"""Batch statistics over all processes, differentiable in both directions.

Used by the learnable SyncBatchNorm only. The collectives that ship with torch have a reverse rule
but no forward-mode rule; summing over processes is linear and its own transpose, so both rules are
one line here.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dd_plugin.bn.arithmetic import at_least_float32, per_channel


class _SumOverProcesses(torch.autograd.Function):
    """``all_reduce(sum)``, whose tangent and cotangent are again sums over processes."""

    @staticmethod
    def forward(x: Tensor, group: Any) -> Tensor:
        total = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.group = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _SumOverProcesses.apply(grad, ctx.group), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _SumOverProcesses.apply(tangent, ctx.group)


def several_processes() -> bool:
    """Return whether a process group of more than one process was started."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def process_group_of(layer: torch.nn.Module) -> Any | None:
    """Return the group that a layer synchronizes over, None if it has only one process."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    group = getattr(layer, "process_group", None) or dist.group.WORLD
    return group if dist.get_world_size(group) > 1 else None


def global_moments(x: Tensor, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, biased variance and count per channel over all processes of a group.

    Two sums, first of the values and then of the squared deviations, because one pass over sums
    of squares cancels badly in float32. Processes may hold batches of different size, empty ones
    too; where all are empty the count is 0 and the moments are zeros.

    Raises:
        ValueError: with one value per channel over all processes.
    """
    x = at_least_float32(x)
    dims = [d for d in range(x.dim()) if d != 1]
    channels = x.shape[1]
    local_count = x.new_full((1,), x.numel() // max(channels, 1))
    sums = _SumOverProcesses.apply(torch.cat([x.sum(dims), local_count]), group)
    count = sums[-1].detach()
    if count == 1:
        raise ValueError(
            "Expected more than 1 value per channel when training, got 1 over all processes"
        )
    divisor = count.clamp(min=1)
    mean = sums[:-1] / divisor
    squares = (x - per_channel(mean, x)).square().sum(dims)
    var = _SumOverProcesses.apply(squares, group) / divisor
    return mean, var, count
