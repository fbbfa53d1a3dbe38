"""The results of `hypergradient` and `unroll`: plain values, all tensors detached.

Filled by `hypergradient` from the one record that `driver` makes of a run, whatever the method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dd_plugin.bilevel.optimizers import State, Tensors
from dd_plugin.bilevel.step_values import RunState


@dataclass(frozen=True)
class BatchGradient:
    """The gradient for one step's batch: shaped like its images, and its soft labels (or None)."""

    images: Tensor
    labels: Tensor | None


@dataclass(frozen=True)
class Hypergradient:
    """The result of `hypergradient`. All tensors are detached.

    Attributes:
        outer_loss: 0-d.
        inner_losses: the inner loss of every step that was run, ``(steps,)`` or
            ``(steps, networks)``.
        finite: whether every loss and every gradient is finite. If not, nothing should be done
            with the gradients; where a loss is not finite they are NaN.
        first_nonfinite: the first step with an inner loss that is not finite, or None.
        start: the first step of the window; ``stop``: where the run ended.
        stop: see ``start``.
        batches: step to gradient for the steps of the window; empty where ``leaves`` were given
            with a function of the step, since it has gone into the leaves.
        leaves: gradients for ``leaves``, in their order.
        step_size: in the shape of the step size, zero outside of the window.
        hyperparameters: gradients for the optimizer's, by name.
        parameters: gradients for the weights at the start of the window (the initial weights
            with a window that begins at step 0), as ``statistics`` and ``optimizer_state``.
        statistics: see ``parameters``.
        optimizer_state: see ``parameters``; floating-point entries.
        constants: gradients for what is held constant in the run: learned or frozen statistics,
            `momentum_shift`, `mean_correction`, `var_correction`.
        final: the state after the last step.
        method: the method that was used in the end.
        trajectory_bytes: bytes kept for the backward sweep.
    """

    outer_loss: Tensor
    inner_losses: Tensor
    finite: bool
    first_nonfinite: int | None
    start: int
    stop: int
    batches: dict[int, BatchGradient]
    leaves: tuple[Tensor, ...]
    step_size: Any
    hyperparameters: dict[str, Any]
    parameters: Tensors
    statistics: Tensors
    optimizer_state: State
    constants: Tensors
    final: RunState
    method: str
    trajectory_bytes: int


@dataclass(frozen=True)
class Unrolled:
    """The result of `unroll`, detached: the final state and the inner loss of every step."""

    final: RunState
    inner_losses: Tensor
