"""``method="autograd"``: the whole run as one graph, the oracle that the other methods must match.

It keeps every activation of every step and differentiates the run in one go, as a user would who
writes the loop by hand with ``create_graph=True``. Simple on purpose, and used for checking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dd_plugin.bilevel.foreign_models.no_grad import once_differentiable_refused
from dd_plugin.bilevel.inputs import Batch
from dd_plugin.bilevel.optimizers import State, Tensors
from dd_plugin.bilevel.problem import BilevelProblem, gradients_of
from dd_plugin.bilevel.step_values import RunState, leaves_of, rebuilt, split_state, tree_map_only


@dataclass(frozen=True)
class WholeRun:
    """Values and gradients of `differentiate_whole_run`, named as in `Hypergradient`."""

    outer_loss: Tensor
    inner_losses: list[Tensor]
    final: RunState
    parameters: Tensors
    statistics: Tensors
    optimizer: State
    constants: Tensors
    batches: list[tuple[Tensor, Tensor | None]]
    step_sizes: list[Any]
    hyperparameters: dict[str, Any]


def _leaf(t: Tensor) -> Tensor:
    return t.detach().clone().requires_grad_(t.is_floating_point())


def differentiate_whole_run(
    problem: BilevelProblem,
    state: RunState,
    constants: Tensors,
    batches: Sequence[Batch],
    noises: Sequence[int],
    step_sizes: Sequence[Any],
    hyperparameters: dict[str, Any],
    outer_batches: Sequence[Batch],
    outer_noises: Sequence[int],
) -> WholeRun:
    """Run the steps with their graph and differentiate the outer loss once."""
    tree = (state, constants, list(batches), list(step_sizes), hyperparameters)
    leaves = tree_map_only(Tensor, _leaf, tree)
    first, c, pairs, alphas, hyper = leaves
    now: RunState = first
    inner: list[Tensor] = []
    with torch.enable_grad(), once_differentiable_refused():
        for batch, noise, alpha in zip(pairs, noises, alphas, strict=True):
            loss, moved = problem.loss(problem.inputs(now, c, batch, noise))
            theta = now.parameters
            g = gradients_of(loss, theta, "inner", create_graph=True)
            now = RunState(*problem.update(g, now.optimizer, theta, alpha, hyper), *moved)
            inner.append(loss.detach())
        total = sum(len(x) for x, _ in outer_batches)
        outer = torch.zeros((), dtype=inner[0].dtype, device=inner[0].device)
        for batch, noise in zip(outer_batches, outer_noises, strict=True):
            value, _ = problem.loss(problem.inputs(now, c, batch, noise), outer=True)
            outer = outer + value * (len(batch[0]) / total)
    flat = leaves_of(leaves)
    slopes_of = gradients_of(outer, {id(t): t for t in flat if t.requires_grad}, "outer")
    bars = rebuilt(leaves, iter([slopes_of.get(id(t)) for t in flat]))
    first_bar, c_bar, pairs_bar, alphas_bar, hyper_bar = bars
    final = tree_map_only(Tensor, Tensor.detach, now)
    floats = {k: first_bar.optimizer[k] for k in split_state(state.optimizer)[0]}
    return WholeRun(
        outer_loss=outer.detach(),
        inner_losses=inner,
        final=final,
        parameters=first_bar.parameters,
        statistics=first_bar.statistics,
        optimizer=floats,
        constants=c_bar,
        batches=pairs_bar,
        step_sizes=alphas_bar,
        hyperparameters=hyper_bar,
    )
