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
from torch.utils import _pytree as pytree

from dd_plugin.bilevel.inputs import Batch
from dd_plugin.bilevel.optimizers import State, Tensors
from dd_plugin.bilevel.problem import BilevelProblem, RunState, gradients_of, split_state


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
    leaves = pytree.tree_map_only(Tensor, _leaf, tree)
    first, c, pairs, alphas, hyper = leaves
    fixed = problem.model.fixed
    theta, o, s, counters = first
    inner: list[Tensor] = []
    with torch.enable_grad():
        for (x, y), noise, alpha in zip(pairs, noises, alphas, strict=True):
            loss, (s, counters) = problem._loss(
                problem.inner_loss, (theta, s, counters, c), fixed, x, y, noise, True, True
            )
            g = gradients_of(loss, theta, "inner", create_graph=True)
            theta, o = problem.update(g, o, theta, alpha, hyper)
            inner.append(loss.detach())
        total = sum(len(x) for x, _ in outer_batches)
        outer = torch.zeros((), dtype=inner[0].dtype, device=inner[0].device)
        for (x, y), noise in zip(outer_batches, outer_noises, strict=True):
            value, _ = problem._loss(
                problem.outer_loss,
                (theta, s, counters, c),
                fixed,
                x,
                y,
                noise,
                problem.outer_training,
                True,
            )
            outer = outer + value * (len(x) / total)
    flat, spec = pytree.tree_flatten(leaves)
    slopes_of = gradients_of(outer, {id(t): t for t in flat if t.requires_grad}, "outer")
    bars = pytree.tree_unflatten([slopes_of.get(id(t)) for t in flat], spec)
    first_bar, c_bar, pairs_bar, alphas_bar, hyper_bar = bars
    final = pytree.tree_map_only(Tensor, Tensor.detach, RunState(theta, o, s, counters))
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
