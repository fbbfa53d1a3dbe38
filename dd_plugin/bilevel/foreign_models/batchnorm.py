"""Stock BatchNorm layers in the engine: their moving average as a function, not a side effect.

`torch.nn.functional.batch_norm` writes its running statistics in place and has no derivative for
them. While the engine runs a model it replaces the function by plain arithmetic, and what the
kernel would have written is noted instead (`StatisticsRecord`), with its graph. So a model
that was never converted has exact hypergradients, through its moving average as well. Layers made
by `dd_plugin.bn.convert_bn` do not need this. `torch.nn.functional.instance_norm` keeps a moving
average in the same way where a layer was made with ``track_running_stats=True``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn import functional as F

from dd_plugin.bilevel.foreign_models import patching
from dd_plugin.bilevel.foreign_models.autocast import as_float32
from dd_plugin.bilevel.foreign_models.patching import Patch
from dd_plugin.bn import arithmetic
from dd_plugin.bn.rules import batch_normalize

_native = F.batch_norm
_native_instance_norm = F.instance_norm


class StatisticsRecord:
    """New running statistics by the identity of the tensors they replace."""

    def __init__(self) -> None:
        self._new: dict[int, tuple[Tensor, Tensor]] = {}

    def note(self, old: Tensor, new: Tensor) -> None:
        """Note that ``new`` replaces ``old``; a layer used twice moves its average twice."""
        self._new[id(old)] = (old, new)

    def latest(self, old: Tensor) -> Tensor:
        """Return what ``old`` has become, ``old`` itself if nothing moved it."""
        return self._new[id(old)][1] if id(old) in self._new else old

    def as_buffer(self, old: Tensor) -> Tensor:
        """Return the same as plain training sees it in one pass: moved without gradient."""
        return self.latest(old).detach() if id(old) in self._new else old


_record: ContextVar[StatisticsRecord | None] = ContextVar("dd_plugin_statistics", default=None)


@contextlib.contextmanager
def recording(record: StatisticsRecord | None) -> Iterator[None]:
    """Note new statistics in ``record``; with None they are written in place."""
    before = _record.set(record)
    try:
        yield
    finally:
        _record.reset(before)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    record = _record.get()
    if record is None and arithmetic.fused_kernel_is_exact(input):
        return _native(
            input,
            running_mean,
            running_var,
            weight=weight,
            bias=bias,
            training=training,
            momentum=momentum,
            eps=eps,
        )
    if training:
        y, mean, var, count = batch_normalize(input, weight, bias, eps)
        if count == 0:  # torch's kernel leaves the running statistics alone
            return y
        for old, new in ((running_mean, mean), (running_var, arithmetic.unbiased(var, count))):
            if old is not None and record is not None:
                record.note(old, arithmetic.moving_average(record.latest(old), new, momentum))
            elif old is not None:
                with torch.no_grad():
                    old.copy_(arithmetic.moving_average(old, new, momentum))
        return y
    if record is None:
        record = StatisticsRecord()
    assert running_mean is not None
    assert running_var is not None
    mean, var = record.as_buffer(running_mean), record.as_buffer(running_var)
    return arithmetic.normalize(input, mean, var, weight=weight, bias=bias, eps=eps)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    input = as_float32(input)
    record = _record.get()
    tracked = running_mean is not None and running_var is not None
    if not tracked or (record is None and arithmetic.fused_kernel_is_exact(input)):
        return _native_instance_norm(
            input,
            running_mean,
            running_var,
            weight=weight,
            bias=bias,
            use_input_stats=use_input_stats,
            momentum=momentum,
            eps=eps,
        )
    if not use_input_stats:
        return _batch_norm(
            input, running_mean, running_var, weight=weight, bias=bias, momentum=momentum, eps=eps
        )
    pixels = list(range(2, input.dim()))
    # Each example has statistics of its own; the moving average takes their mean.
    mean, var = input.mean(pixels).mean(0), input.var(pixels).mean(0)
    for old, new in ((running_mean, mean), (running_var, var)):
        assert old is not None
        if record is not None:
            record.note(old, arithmetic.moving_average(record.latest(old), new, momentum))
        else:
            with torch.no_grad():
                old.copy_(arithmetic.moving_average(old, new, momentum))
    return _native_instance_norm(input, weight=weight, bias=bias, momentum=momentum, eps=eps)


@contextlib.contextmanager
def differentiable_batch_norm() -> Iterator[None]:
    """Replace the functions that move running statistics by ones that obey `recording`."""
    tickets = patching.apply(
        [Patch(F, "batch_norm", _batch_norm), Patch(F, "instance_norm", _instance_norm)]
    )
    try:
        yield
    finally:
        patching.restore(tickets)
