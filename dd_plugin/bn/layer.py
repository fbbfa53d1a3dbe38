"""The learnable-statistics layer: how it normalizes.

`LearnableStatistics` goes in front of a stock class and replaces its normalization, nothing else.
Its base in `policy.py` says what the running statistics are. `mixins.py` specializes it for layers
that do more than `torch.nn.BatchNorm2d`, and `variants.py` makes the learnable class of a stock
class. `convert.py` turns the layers of an existing model into such classes and back. All
arithmetic is in `arithmetic.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dd_plugin.bn import arithmetic
from dd_plugin.bn.distributed import several_processes
from dd_plugin.bn.graph_mode import note_moved, statistics_are_in_graph
from dd_plugin.bn.policy import StatisticsPolicy
from dd_plugin.bn.rules import batch_normalize
from dd_plugin.private import check_dimensions, is_tracing


class LearnableStatistics(StatisticsPolicy):
    """Mixin: normalization whose running statistics gradients can reach.

    In train mode it normalizes with the batch (``train_with="batch"``) or with the running
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

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x (N, C, *)``; see `torch.nn.BatchNorm2d` for shapes and errors."""
        check_dimensions(self, x)
        return self.normalize(x)

    def normalize(self, x: Tensor) -> Tensor:
        """Normalize ``x``, without the check of its dimensions and without any activation."""
        self.check_channels(x)
        if self.uses_batch():
            return self.normalize_with_batch(x)
        effective = self.effective_statistics()
        moves = self.moves_statistics()
        # `fused_normalize` depends on whether gradients are recorded, which `torch.jit.trace` does
        # and its check does not: the two graphs would differ.
        fused = not is_tracing() and arithmetic.fused_kernel_is_exact(x)
        normalize = arithmetic.fused_normalize if fused else arithmetic.normalize
        y = normalize(
            x,
            effective["running_mean"],
            effective["running_var"],
            weight=self.weight,
            bias=self.bias,
            eps=self.epsilon(),
        )
        if moves:
            mean, var, count = self.batch_moments(x if statistics_are_in_graph() else x.detach())
            unbiased = arithmetic.unbiased(var, count)
            self.track_moments({"running_mean": mean, "running_var": unbiased}, count)
        return y

    def batch_moments(self, x: Tensor) -> tuple[Tensor, Tensor, int | Tensor]:
        """Return mean, biased variance and count per channel of what train mode normalizes with."""
        return arithmetic.batch_moments(x)

    def uses_batch(self) -> bool:
        """Return whether a forward now normalizes with the moments of its batch."""
        if not self.looks_at_batch:
            return False
        if self.running_mean is None and self.running_var is None:
            return True
        return self.training and self.train_with == "batch"

    def moves_statistics(self) -> bool:
        """Return whether a forward now moves the running statistics."""
        return (
            self.training
            and self.statistics == "tracked"
            and self.looks_at_batch
            and self.track_running_stats
            and self.running_var is not None
        )

    def normalize_with_batch(self, x: Tensor) -> Tensor:
        """Normalize ``x`` with its own moments, and track them where the policy says so."""
        moves = self.moves_statistics()
        bias = self.bias_seen_by_ddp()
        in_graph = moves and statistics_are_in_graph()
        if arithmetic.fused_kernel_is_exact(x) and not in_graph:
            if not moves:
                return F.batch_norm(x, None, None, self.weight, bias, True, 0.0, self.epsilon())
            assert self.running_mean is not None
            assert self.running_var is not None
            # At momentum 1 the kernel leaves the batch's own mean and unbiased variance here.
            mean, var = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
            y = F.batch_norm(x, mean, var, self.weight, bias, True, 1.0, self.epsilon())
            self.track_moments({"running_mean": mean, "running_var": var}, x.numel())
            return y
        y, mean, batch_var, count = batch_normalize(x, self.weight, bias, self.epsilon())
        if moves:
            var = arithmetic.unbiased(batch_var, count)
            self.track_moments({"running_mean": mean, "running_var": var}, count)
        return y

    def track_moments(self, observed: dict[str, Tensor], count: int | Tensor) -> None:
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
                if torch.compiler.is_compiling() and not self.uses_batch():
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

    def bias_seen_by_ddp(self) -> Tensor | None:
        """Return the bias, plus a zero that gives learned statistics a zero gradient under DDP.

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

    def check_channels(self, x: Tensor) -> None:
        """Refuse an input with another number of channels.

        Raises:
            ValueError: it has another than the layer.
        """
        like = self.running_var if self.running_var is not None else self.weight
        if like is not None and x.shape[1] != like.shape[-1]:
            raise ValueError(
                f"the input must have {like.shape[-1]} channels in dimension 1, "
                f"got an input of shape {tuple(x.shape)}"
            )
