"""``method="autograd"``: the whole run as one graph, the oracle that the other methods must match.

It keeps every activation of every step and differentiates the run in one go, like a loop written by
hand with ``create_graph=True``. It is simple on purpose, to check the others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dd_plugin.bilevel.autograd import gradients_of
from dd_plugin.bilevel.foreign_models.no_grad import once_differentiable_refused
from dd_plugin.bilevel.plan import Plan
from dd_plugin.bilevel.step_values import (
    Carry,
    RunState,
    StepAdjoints,
    leaves_of,
    rebuilt,
    split_state,
    tree_map,
    tree_map_only,
)
from dd_plugin.bilevel.steps import Steps
from dd_plugin.bilevel.trajectory import ForwardRun


def _leaf(t: Tensor) -> Tensor:
    return t.detach().clone().requires_grad_(t.is_floating_point())


def differentiate_whole_run(
    steps: Steps, plan: Plan, before: ForwardRun
) -> tuple[ForwardRun, Tensor, Carry, dict[int, StepAdjoints]]:
    """Run the window with its graph, and differentiate the outer loss once.

    Args:
        steps: of the run.
        plan: of the run.
        before: the steps before the window, as they were run.

    Returns:
        The whole run, the outer loss, the adjoints of the start of the window, and those of what
        goes into each of its steps.
    """
    problem, window, state = steps.problem, plan.window, before.final
    batches = [plan.batches.values(k) for k in window]
    step_sizes = [plan.step_size.at(k) for k in window]
    tree = (state, steps.constants, batches, step_sizes, plan.optimizer_values())
    leaves = tree_map_only(Tensor, _leaf, tree)
    first, c, pairs, alphas, hyper = leaves
    now: RunState = first
    inner: list[Tensor] = []
    with torch.enable_grad(), once_differentiable_refused():
        for k, batch, alpha in zip(window, pairs, alphas, strict=True):
            loss, moved = problem.loss(problem.inputs(now, c, batch, plan.noise(k)))
            theta = now.parameters
            g = gradients_of(loss, theta, "inner", create_graph=True)
            theta, o = problem.optimizer.update(
                gradients=g,
                state=now.optimizer,
                parameters=theta,
                step_size=alpha,
                hyperparameters=hyper,
            )
            now = RunState(parameters=theta, optimizer=o, statistics=moved[0], counters=moved[1])
            inner.append(loss.detach())
        outer = torch.zeros((), dtype=inner[0].dtype, device=inner[0].device)
        for index in range(len(plan.outer_batches)):
            batch, noise, share = plan.outer(index)
            value, _ = problem.loss(problem.inputs(now, c, batch, noise), outer=True)
            outer = outer + value * share
    flat = leaves_of(leaves)
    slopes_of = gradients_of(outer, {id(t): t for t in flat if t.requires_grad}, "outer")
    bars = rebuilt(leaves, iter([slopes_of.get(id(t)) for t in flat]))
    return (
        before._replace(
            final=tree_map_only(Tensor, Tensor.detach, now), losses=[*before.losses, *inner]
        ),
        outer.detach(),
        *_gathered(plan, state, bars),
    )


def _gathered(plan: Plan, state: RunState, bars: Any) -> tuple[Carry, dict[int, StepAdjoints]]:
    """Return the gradients as the other methods have them."""
    first_bar, c_bar, pairs_bar, alphas_bar, hyper_bar = bars
    zeros = {name: schedule.zeros() for name, schedule in plan.hyperparameters.items()}
    carry = Carry(
        parameters=first_bar.parameters,
        optimizer={k: first_bar.optimizer[k] for k in split_state(state.optimizer)[0]},
        statistics=first_bar.statistics,
        constants=c_bar,
        hyperparameters=tree_map(torch.add, zeros, hyper_bar),
    )
    of_steps = zip(plan.window, alphas_bar, pairs_bar, strict=True)
    return carry, {
        k: StepAdjoints(step_size=alpha_bar, images=images_bar, labels=labels_bar)
        for k, alpha_bar, (images_bar, labels_bar) in of_steps
    }
