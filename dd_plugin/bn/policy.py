"""What the running statistics of a learnable layer are, and how they are stored.

`StatisticsPolicy` is the base of `LearnableStatistics` in `layer.py`, which normalizes with them.
Per policy, ``running_mean`` and ``running_var`` are

- ``statistics="learned"``: parameters, moved by gradient;
- ``"tracked"``: buffers, moved by each training step's moving average;
- ``"frozen"``: buffers that nothing moves.

A tracked layer has three more scalars, buffers that no ``state_dict`` contains: `momentum_shift`,
`mean_correction` and `var_correction`. At zero, where they start, the layer is plain BatchNorm.

Three methods of `torch.nn.Module` are overridden here that have private names: torch has no public
way to say what a layer saves, loads and moves to a device.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dd_plugin.bn import arithmetic
from dd_plugin.bn.graph_mode import as_buffer
from dd_plugin.bn.guarded_eps import GuardedEps, keep_readable, put_away
from dd_plugin.choices import Statistics as Statistics
from dd_plugin.choices import TrainWith as TrainWith
from dd_plugin.private import buffers_of

STATISTICS: tuple[Statistics, ...] = ("learned", "tracked", "frozen")
TRAIN_WITH: tuple[TrainWith, ...] = ("batch", "running")
_CORRECTIONS = ("momentum_shift", "mean_correction", "var_correction")


def check_policy(statistics: str, train_with: str) -> None:
    """Raise ValueError unless both values are among the documented ones."""
    if statistics not in STATISTICS:
        raise ValueError(f"`statistics` must be one of {STATISTICS}, got {statistics!r}")
    if train_with not in TRAIN_WITH:
        raise ValueError(f"`train_with` must be one of {TRAIN_WITH}, got {train_with!r}")


class StatisticsPolicy(nn.Module):
    """Mixin: running statistics that are parameters or buffers, whichever the policy says."""

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
        self.__dict__["_stock_buffer_order"] = tuple(buffers_of(self))
        self.statistics = statistics
        if statistics == "learned":
            for name in self.present_statistics():
                buffer = self.get_buffer(name)
                delattr(self, name)
                self.register_parameter(name, nn.Parameter(buffer.detach()))
        elif statistics == "tracked":
            for name in self.correction_names():
                like = self.running_var
                assert like is not None
                self.register_buffer(name, like.detach().new_zeros(()), persistent=False)

    def remove_policy(self) -> None:
        """Leave the buffers and the momentum of a stock layer, holding the effective values."""
        effective = self.effective_statistics()
        buffers = buffers_of(self)
        shift = buffers.get("momentum_shift")
        if self.looks_at_batch and self.momentum is not None and _differs_from_zero(shift):
            assert shift is not None
            self.momentum = float(arithmetic.effective_momentum(self.momentum, shift))
        for name in self.correction_names():
            if name in buffers:
                delattr(self, name)
        for name, value in effective.items():
            stored = getattr(self, name).detach()
            if not stored.is_meta:
                stored.copy_(value.detach())
            delattr(self, name)
            self.register_buffer(name, stored)
        for name in self.__dict__.pop("_stock_buffer_order"):
            if name in buffers:
                buffers[name] = buffers.pop(name)
        put_away(self)
        del self.statistics

    def present_statistics(self) -> list[str]:
        """Return the names of the running statistics that this layer has."""
        return [name for name in self.statistics_names if getattr(self, name) is not None]

    def correction_names(self) -> list[str]:
        """Return the names of the scalars of a tracked layer: none without running statistics."""
        present = self.present_statistics()
        names = ["momentum_shift"] if present and self.looks_at_batch else []
        names += ["mean_correction"] if "running_mean" in present else []
        return names + (["var_correction"] if "running_var" in present else [])

    def epsilon(self) -> float:
        """Return what is added to the variance."""
        return self.unguarded_eps

    def materialize_corrections(self) -> None:
        """Give corrections that are still on the meta device their first value, zero.

        No checkpoint holds them, so what fills the statistics of a layer that was made on the meta
        device (``load_state_dict(..., assign=True)``, Accelerate's loaders) leaves them there.
        """
        buffers = buffers_of(self)
        like = buffers.get("running_var")
        if self.statistics != "tracked" or like is None or like.is_meta:
            return
        for name in _CORRECTIONS:
            value = buffers.get(name)
            if value is not None and value.is_meta:
                buffers[name] = torch.zeros((), dtype=like.dtype, device=like.device)

    def effective_statistics(self) -> dict[str, Tensor]:
        """Return what eval mode normalizes with: name to tensor ``(C,)``, differentiable."""
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

    # What a stock layer does around its forward.

    def reset_parameters(self) -> None:
        """Set affine parameters and running statistics to their first values, as stock layers."""
        self.__dict__["_resets_parameters"] = True
        stock: Any = super()
        try:
            stock.reset_parameters()
        finally:
            del self.__dict__["_resets_parameters"]

    @torch.no_grad()
    def reset_running_stats(self) -> None:
        """Set the running statistics to 0 and 1, and warn when nothing will fill them again."""
        stock: Any = super()
        stock.reset_running_stats()
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
        """Return the stock layer's line and the policy."""
        policy = f"statistics={self.statistics}, train_with={self.train_with}"
        return ", ".join(part for part in (super().extra_repr(), policy) if part)

    def __dir__(self) -> list[str]:
        """List ``eps`` only while it is handed out: `torch.jit` reads all that is listed."""
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
                if name in state_dict and _differs_from_zero(buffers_of(self).get(correction)):
                    by = divisor(getattr(self, correction)).detach()
                    value = state_dict[name]
                    state_dict[name] = torch.where(by == 0, value, value / by).to(value.dtype)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self.materialize_corrections()

    def stored_is_effective(self) -> bool:
        """Return whether the stored statistics are, to the bit, those that eval mode uses."""
        buffers = buffers_of(self)
        corrected = any(_differs_from_zero(buffers.get(n)) for n in self.correction_names())
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
        """Set an attribute; a scalar that leaves the meta device starts at zero.

        `from_pretrained` in transformers builds models there and then assigns memory as it was to
        every buffer that no checkpoint holds.
        """
        if name in _CORRECTIONS and isinstance(value, Tensor) and not value.is_meta:
            previous = buffers_of(self).get(name)
            if previous is not None and previous.is_meta:
                value = torch.zeros_like(value)
        super().__setattr__(name, value)


def _differs_from_zero(value: Tensor | None) -> bool:
    return value is not None and not value.is_meta and bool(value.detach() != 0)
