"""The learnable-statistics layer: one mixin, and its ready-made 1d, 2d and 3d classes.

`LearnableStatistics` goes in front of a stock class and replaces how it normalises, nothing else.
`variants.py` holds its variants (synchronised, frozen, EvoNorm, timm's norm + activation) and
makes the learnable class for a stock class; `convert.py` turns the layers of an existing model
into such classes and back. All arithmetic is in `arithmetic.py`.

Per policy, ``running_mean`` and ``running_var`` are

- ``statistics="learned"``: parameters, moved by gradient;
- ``"tracked"``: buffers, moved by each training step's moving average;
- ``"frozen"``: buffers that nothing moves.

A tracked layer has three more scalars, buffers that no ``state_dict`` contains: `momentum_shift`,
`mean_correction` and `var_correction`. At zero, where they start, the layer is plain BatchNorm.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dd_plugin.bn import arithmetic
from dd_plugin.bn.distributed import several_processes
from dd_plugin.bn.graph_mode import as_buffer, note_moved, statistics_are_in_graph
from dd_plugin.bn.guarded_eps import GuardedEps, keep_readable, put_away
from dd_plugin.bn.private import is_tracing
from dd_plugin.bn.rules import batch_normalize

Statistics: TypeAlias = Literal["learned", "tracked", "frozen"]
TrainWith: TypeAlias = Literal["batch", "running"]

STATISTICS: tuple[Statistics, ...] = ("learned", "tracked", "frozen")
TRAIN_WITH: tuple[TrainWith, ...] = ("batch", "running")
_CORRECTIONS = ("momentum_shift", "mean_correction", "var_correction")


def check_policy(statistics: str, train_with: str) -> None:
    """Raise ValueError unless both values are among the documented ones."""
    if statistics not in STATISTICS:
        raise ValueError(f"`statistics` must be one of {STATISTICS}, got {statistics!r}")
    if train_with not in TRAIN_WITH:
        raise ValueError(f"`train_with` must be one of {TRAIN_WITH}, got {train_with!r}")


class LearnableStatistics(nn.Module):
    """Mixin: normalisation whose running statistics gradients can reach.

    In train mode it normalises with the batch (``train_with="batch"``) or with the running
    statistics (``"running"``); in eval mode with the running statistics. The variance used is the
    absolute value of ``running_var``, so no optimizer step can make it negative. A layer without
    running statistics (``track_running_stats=False``) always uses the batch.

    With ``statistics="tracked"``, eval mode uses ``running_mean * (1 + mean_correction)`` and
    ``running_var * exp(var_correction)``, and the moving average uses ``momentum`` shifted by
    `momentum_shift` on the logit scale.

    A ``state_dict`` holds the statistics that eval mode uses, so a stock layer that loads it gives
    the same outputs, and this layer gives the outputs of whichever model it loads from. Code that
    takes the attributes instead, to fuse or rebuild the layer, is refused where these differ: see
    `GuardedEps`.
    """

    stock_class: ClassVar[type[nn.Module]]
    guards_eps: ClassVar[bool] = True  # not where a stock class reads it in a forward of its own
    statistics_names: ClassVar[tuple[str, ...]] = ("running_mean", "running_var")
    looks_at_batch: ClassVar[bool] = True

    statistics: Statistics
    train_with: TrainWith
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    weight: Any  # Tensor | None; stock classes declare more than that
    bias: Any
    eps: Any = GuardedEps()
    unguarded_eps: float  # see `keep_readable`
    momentum: float | None
    track_running_stats: bool
    momentum_shift: Tensor
    mean_correction: Tensor
    var_correction: Tensor

    def __init__(
        self,
        *args: Any,
        statistics: Statistics = "learned",
        train_with: TrainWith = "batch",
        **kwargs: Any,
    ) -> None:
        check_policy(statistics, train_with)
        super().__init__(*args, **kwargs)
        self.install_policy(statistics, train_with)

    # Policies: what the statistics are, and how to go from one to another.

    def install_policy(self, statistics: Statistics, train_with: TrainWith) -> None:
        """Make the running statistics what the policy says; outputs in eval mode stay."""
        self.train_with = train_with
        previous = self.__dict__.get("statistics")
        if previous == statistics:
            return
        if previous is not None:
            self.remove_policy()
        keep_readable(self)
        self.__dict__["_stock_buffer_order"] = tuple(self._buffers)
        self.statistics = statistics
        if statistics == "learned":
            for name in self.present_statistics():
                buffer = self._buffers.pop(name)
                assert buffer is not None
                self.register_parameter(name, nn.Parameter(buffer.detach()))
        elif statistics == "tracked":
            for name in self.correction_names():
                like = self.running_var
                assert like is not None
                self.register_buffer(name, like.detach().new_zeros(()), persistent=False)

    def remove_policy(self) -> None:
        """Leave the buffers and the momentum of a stock layer, holding the effective values."""
        effective = self.effective_statistics()
        shift = self._buffers.get("momentum_shift")
        if self.looks_at_batch and self.momentum is not None and _differs_from_zero(shift):
            assert shift is not None
            self.momentum = float(arithmetic.effective_momentum(self.momentum, shift))
        for name in self.correction_names():
            self._buffers.pop(name, None)
            self._non_persistent_buffers_set.discard(name)
        for name, value in effective.items():
            stored = self._parameters.pop(name) if name in self._parameters else self._buffers[name]
            assert stored is not None
            stored = stored.detach()
            if not stored.is_meta:
                stored.copy_(value.detach())
            self._buffers[name] = stored
        for name in self.__dict__.pop("_stock_buffer_order"):
            if name in self._buffers:
                self._buffers[name] = self._buffers.pop(name)
        put_away(self)
        del self.statistics

    def present_statistics(self) -> list[str]:
        """The names of the running statistics that this layer has."""
        return [name for name in self.statistics_names if getattr(self, name) is not None]

    def correction_names(self) -> list[str]:
        """The names of the scalars that a tracked layer adds: none without running statistics."""
        present = self.present_statistics()
        names = ["momentum_shift"] if present and self.looks_at_batch else []
        names += ["mean_correction"] if "running_mean" in present else []
        return names + (["var_correction"] if "running_var" in present else [])

    def epsilon(self) -> float:
        """What is added to the variance."""
        return self.unguarded_eps

    def materialize_corrections(self) -> None:
        """Give corrections that are still on the meta device their first value, zero.

        No checkpoint holds them, so what fills the statistics of a layer that was made on the meta
        device (``load_state_dict(..., assign=True)``, Accelerate's loaders) leaves them there.
        """
        like = self._buffers.get("running_var")
        if self.statistics != "tracked" or like is None or like.is_meta:
            return
        for name in _CORRECTIONS:
            value = self._buffers.get(name)
            if value is not None and value.is_meta:
                self._buffers[name] = torch.zeros((), dtype=like.dtype, device=like.device)

    def effective_statistics(self) -> dict[str, Tensor]:
        """What eval mode normalises with: name to tensor ``(C,)``, differentiable."""
        self.materialize_corrections()
        effective: dict[str, Tensor] = {}
        if self.running_mean is not None:
            effective["running_mean"] = as_buffer(self.running_mean)
        if self.running_var is not None:
            effective["running_var"] = arithmetic.positive(as_buffer(self.running_var))
        if self.statistics == "tracked":
            if "running_mean" in effective:
                effective["running_mean"] = effective["running_mean"] * (1 + self.mean_correction)
            if "running_var" in effective:
                effective["running_var"] = effective["running_var"] * self.var_correction.exp()
        return effective

    # Forward.

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x (N, C, *)``; see `torch.nn.BatchNorm2d` for shapes and errors."""
        check: Callable[[Tensor], None] | None = getattr(self, "_check_input_dim", None)
        if check is not None:
            check(x)
        return self.normalize(x)

    def normalize(self, x: Tensor) -> Tensor:
        """What `forward` does between the check of dimensions and any activation."""
        self._check_channels(x)
        if self._normalizes_with_batch():
            return self._normalize_with_batch(x)
        effective = self.effective_statistics()
        moves = self._moves_statistics()
        # `fused_normalize` depends on whether gradients are recorded, which `torch.jit.trace` does
        # and its check does not: the two graphs would differ.
        fused = not is_tracing() and arithmetic.fused_kernel_is_exact(x)
        normalize = arithmetic.fused_normalize if fused else arithmetic.normalize
        y = normalize(
            x,
            effective["running_mean"],
            effective["running_var"],
            self.weight,
            self.bias,
            self.epsilon(),
        )
        if moves:
            mean, var, count = self.batch_moments(x if statistics_are_in_graph() else x.detach())
            unbiased = arithmetic.unbiased(var, count)
            self._track({"running_mean": mean, "running_var": unbiased}, count)
        return y

    def batch_moments(self, x: Tensor) -> tuple[Tensor, Tensor, int | Tensor]:
        """Mean, biased variance and count per channel of what train mode normalises with."""
        return arithmetic.batch_moments(x)

    def _normalizes_with_batch(self) -> bool:
        if not self.looks_at_batch:
            return False
        if self.running_mean is None and self.running_var is None:
            return True
        return self.training and self.train_with == "batch"

    def _moves_statistics(self) -> bool:
        return (
            self.training
            and self.statistics == "tracked"
            and self.looks_at_batch
            and self.track_running_stats
            and self.running_var is not None
        )

    def _normalize_with_batch(self, x: Tensor) -> Tensor:
        moves = self._moves_statistics()
        bias = self._bias_seen_by_ddp()
        in_graph = moves and statistics_are_in_graph()
        if arithmetic.fused_kernel_is_exact(x) and not in_graph:
            if not moves:
                return F.batch_norm(x, None, None, self.weight, bias, True, 0.0, self.epsilon())
            assert self.running_mean is not None
            assert self.running_var is not None
            # At momentum 1 the kernel leaves the batch's own mean and unbiased variance here.
            mean, var = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
            y = F.batch_norm(x, mean, var, self.weight, bias, True, 1.0, self.epsilon())
            self._track({"running_mean": mean, "running_var": var}, x.numel())
            return y
        y, mean, batch_var, count = batch_normalize(x, self.weight, bias, self.epsilon())
        if moves:
            var = arithmetic.unbiased(batch_var, count)
            self._track({"running_mean": mean, "running_var": var}, count)
        return y

    def _track(self, observed: dict[str, Tensor], count: int | Tensor) -> None:
        """Move the running statistics: rebound with their graph, or in place without one.

        A batch without values is counted, as torch's layers do, and moves nothing.
        """
        if count == 0:
            observed = {}
        self.materialize_corrections()
        if statistics_are_in_graph():
            batches = None
            if self.num_batches_tracked is not None:
                self.num_batches_tracked = batches = self.num_batches_tracked + 1
            momentum = self._momentum_now(batches)
            for name, value in observed.items():
                moved = arithmetic.moving_average(getattr(self, name), value, momentum)
                setattr(self, name, moved)
                note_moved(moved)
            return
        with torch.no_grad():
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
            momentum = self._momentum_now(self.num_batches_tracked)
            for name, value in observed.items():
                running = getattr(self, name)
                moved = arithmetic.moving_average(running, value.detach(), momentum)
                if torch.compiler.is_compiling() and not self._normalizes_with_batch():
                    # The output was computed from this buffer; in torch 2.15 a compiled backward
                    # would read it as an update in place leaves it.
                    setattr(self, name, moved)
                else:
                    running.copy_(moved)

    def _momentum_now(self, batches: Tensor | None) -> Tensor:
        momentum: float | Tensor
        if self.momentum is not None:
            momentum = self.momentum
        elif batches is None:  # nothing to count with; the stock layer does not move then either
            momentum = 0.0
        else:  # the cumulative average
            assert self.running_var is not None
            momentum = 1.0 / batches.to(arithmetic.at_least_float32(self.running_var).dtype)
        return arithmetic.effective_momentum(momentum, self.momentum_shift)

    def _bias_seen_by_ddp(self) -> Tensor | None:
        """The bias, plus a zero through which learned statistics get a zero gradient under DDP.

        In train mode with the batch, learned statistics take no part in the output. Their gradient
        is then None, as for any unused parameter, which DistributedDataParallel does not accept.
        Whether it is around cannot be told in a compiled or a recomputed forward, so the zero is
        there whenever there are several processes.
        """
        if self.statistics != "learned" or not self.training or not several_processes():
            return self.bias
        stored = [getattr(self, name) for name in self.present_statistics()]
        if not stored:
            return self.bias
        zero = torch.stack([values[:0].sum() for values in stored]).sum()
        bias = torch.zeros_like(stored[-1]) if self.bias is None else self.bias
        return bias + zero

    def _check_channels(self, x: Tensor) -> None:
        like = self.running_var if self.running_var is not None else self.weight
        if like is not None and x.shape[1] != like.shape[-1]:
            raise ValueError(
                f"input must have {like.shape[-1]} channels in dimension 1, "
                f"got an input of shape {tuple(x.shape)}"
            )

    # What a stock layer does around its forward.

    def reset_parameters(self) -> None:
        """As the stock layer: affine parameters and running statistics to their first values."""
        self.__dict__["_resets_parameters"] = True
        try:
            super().reset_parameters()  # type: ignore[misc]
        finally:
            del self.__dict__["_resets_parameters"]

    @torch.no_grad()
    def reset_running_stats(self) -> None:
        """As the stock layer; warns when nothing will fill the statistics again."""
        super().reset_running_stats()  # type: ignore[misc]
        statistics = self.__dict__.get("statistics")  # absent while __init__ runs
        if statistics in ("learned", "frozen") and "_resets_parameters" not in self.__dict__:
            warnings.warn(
                f"reset_running_stats() set {statistics} statistics to mean 0 and variance 1, and "
                "no moving average refills them. If this was `update_bn` or the like: convert "
                'with statistics="tracked", or call revert_bn(model) before it.',
                UserWarning,
                stacklevel=3,
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        keep_readable(self)  # a pickle of version 0.1.0 has only what it reads from

    def extra_repr(self) -> str:
        """The stock layer's line and the policy."""
        policy = f"statistics={self.statistics}, train_with={self.train_with}"
        return ", ".join(part for part in (super().extra_repr(), policy) if part)

    def __dir__(self) -> list[str]:
        """Without ``eps`` while that is not handed out: `torch.jit` reads all that is listed."""
        listed: list[str] = super().__dir__()
        hidden = () if self.stored_is_effective() else ("eps",)
        return [name for name in listed if name not in hidden]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self.__dict__["_stock_buffer_order"]:  # torch puts parameters before buffers
            if prefix + name in destination:
                destination[prefix + name] = destination.pop(prefix + name)
        if self.stored_is_effective():
            return
        for name, value in self.effective_statistics().items():
            destination[prefix + name] = value if keep_vars else value.detach()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if self.statistics == "tracked":
            divisors = {"mean_correction": lambda a: 1 + a, "var_correction": torch.exp}
            for correction, divisor in divisors.items():
                name = f"{prefix}running_{correction.removesuffix('_correction')}"
                if name in state_dict and _differs_from_zero(self._buffers.get(correction)):
                    by = divisor(getattr(self, correction)).detach()
                    value = state_dict[name]
                    state_dict[name] = torch.where(by == 0, value, value / by).to(value.dtype)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self.materialize_corrections()

    def stored_is_effective(self) -> bool:
        """Whether the stored statistics are, to the bit, those that eval mode uses."""
        corrected = any(_differs_from_zero(self._buffers.get(n)) for n in self.correction_names())
        var = self.running_var
        return not corrected and (var is None or var.is_meta or not bool((var < 0).any()))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        corrections = self.correction_names() if self.statistics == "tracked" else []
        leaves_meta = [name for name in corrections if getattr(self, name).is_meta]
        result = super()._apply(fn, recurse)
        for name in leaves_meta:  # `to_empty` gives memory as it was; no checkpoint fills these
            if not getattr(self, name).is_meta:
                getattr(self, name).detach().zero_()
        return result

    def __setattr__(self, name: str, value: Any) -> None:
        """As `torch.nn.Module`, but a scalar that leaves the meta device starts at zero.

        `from_pretrained` in transformers builds models there and then assigns memory as it was to
        every buffer that no checkpoint holds.
        """
        if name in _CORRECTIONS and isinstance(value, Tensor) and not value.is_meta:
            previous = self._buffers.get(name)
            if previous is not None and previous.is_meta:
                value = torch.zeros_like(value)
        super().__setattr__(name, value)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle by the stock class, since a class made on the fly cannot be found by name."""
        from dd_plugin.bn.variants import blank_layer

        return (blank_layer, (self.stock_class,), *super().__reduce_ex__(protocol)[2:])


def _differs_from_zero(value: Tensor | None) -> bool:
    return value is not None and not value.is_meta and bool(value.detach() != 0)


class LearnableBatchNorm1d(LearnableStatistics, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` with learnable statistics: input ``(N, C)`` or ``(N, C, L)``."""

    stock_class = nn.BatchNorm1d
    __module__ = nn.BatchNorm1d.__module__  # torch.fx takes modules of torch.nn as leaves


class LearnableBatchNorm2d(LearnableStatistics, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` with learnable statistics: input ``(N, C, H, W)``."""

    stock_class = nn.BatchNorm2d
    __module__ = nn.BatchNorm2d.__module__  # torch.fx takes modules of torch.nn as leaves


class LearnableBatchNorm3d(LearnableStatistics, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` with learnable statistics: input ``(N, C, D, H, W)``."""

    stock_class = nn.BatchNorm3d
    __module__ = nn.BatchNorm3d.__module__  # torch.fx takes modules of torch.nn as leaves
