"""The recursion: forward through the inner steps, judge, and back again over a carry.

Between `hypergradient`, the entry point, and the parts that it connects: `plan` has the inputs of a
run, `steps` the functions of one step, `trajectory` what is kept between the two
sweeps, `adjoints` how a step is differentiated. The mathematics and its cost are in
``docs/concepts/engine.md``; `step_back` is the recursion.

Nothing here reads a value of a tensor; `HostReads` does, where it is passed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dd_plugin.bilevel.adjoints import SweepMethod, Sweeps, WholeGraph
from dd_plugin.bilevel.host_reads import HostReads
from dd_plugin.bilevel.messages import describe
from dd_plugin.bilevel.optimizers import State, Tensors
from dd_plugin.bilevel.plan import Feed, Plan
from dd_plugin.bilevel.step_values import (
    Carry,
    GradientResult,
    RunState,
    StepAdjoints,
    StepBars,
    split_state,
    tree_map,
)
from dd_plugin.bilevel.steps import Steps
from dd_plugin.bilevel.trajectory import ForwardRun, StepRecord, Trajectory
from dd_plugin.bilevel.whole_graph import differentiate_whole_run

# Gets the adjoints of what goes into one step alone, from the last step to the first.
Take = Callable[[int, StepAdjoints], Any]


class Differentiated(NamedTuple):
    """What `differentiate` returns.

    Attributes:
        run: the inner training.
        outer_loss: Λ, 0-d.
        carry: the adjoints of the start of the window; None where there was no way back, since a
            loss is not finite.
        method: the name of the method that was used in the end.
    """

    run: ForwardRun
    outer_loss: Tensor
    carry: Carry | None
    method: str


def differentiate(
    steps: Steps,
    feed: Feed,
    state: RunState,
    method: SweepMethod,
    take: Take,
    *,
    reads: HostReads | None = None,
    losses: Sequence[Tensor] = (),
) -> Differentiated:
    """Run, judge and differentiate step by step.

    Args:
        steps: the functions of one step.
        feed: what the run is fed with.
        state: what it begins with.
        method: how it is differentiated.
        take: gets the adjoints of each step's batch and step size.
        reads: verifies the first sweep, and on a CPU has the run stop before the way back where a
            loss is not finite. Without it no value of a tensor is read.
        losses: of the steps that were run before.
    """
    run = forward(steps, feed, state, keep_activations=method.keeps_activations, losses=losses)
    outer_loss, carry = judge(steps, feed, run.final)
    if reads is not None and reads.is_to_stop(run.losses, outer_loss):
        return Differentiated(run, outer_loss, None, method.name)
    sweeps = Sweeps(steps, method, None if reads is None else partial(reads.verify, run))
    carry = backward(steps, feed, run=run, carry=carry, sweep=sweeps, take=take, reads=reads)
    return Differentiated(run, outer_loss, carry, sweeps.method.name)


def differentiate_at_once(
    steps: Steps, plan: Plan, state: RunState, take: Take, *, reads: HostReads | None = None
) -> Differentiated:
    """Do the same with the window as one graph; see `WholeGraph`."""
    before = forward(steps, plan.before_window(), state)
    run, outer_loss, carry, adjoints = differentiate_whole_run(steps, plan, before)
    if reads is not None and reads.is_to_stop(run.losses, outer_loss):
        return Differentiated(run, outer_loss, None, WholeGraph.name)
    for k, of_step in adjoints.items():
        take(k, of_step)
    return Differentiated(run, outer_loss, carry, WholeGraph.name)


# --- forward -------------------------------------------------------------------------------------


def forward(
    steps: Steps,
    feed: Feed,
    state: RunState,
    *,
    keep_activations: bool = False,
    losses: Sequence[Tensor] = (),
) -> ForwardRun:
    """Run the inner training step by step, and keep of the window what `backward` needs.

    Args:
        steps: the functions of one step.
        feed: what the run is fed with.
        state: what it begins with.
        keep_activations: keep those of the last steps, as many as ``feed.storage`` allows.
        losses: of the steps that were run before.
    """
    trajectory = Trajectory(feed.storage, len(feed.window))
    keep_from = _keep_from(steps, feed, state) if keep_activations else feed.window.stop
    losses = list(losses)
    for k in feed.steps:
        state, record, loss = step_forward(steps, feed, k, state, keep=k >= keep_from)
        losses.append(loss)
        if k in feed.window:
            trajectory.record(record)
        del record  # what it holds is not needed for the next step
    return ForwardRun(state, losses, trajectory, trajectory.nbytes())


def step_forward(
    steps: Steps, feed: Feed, k: int, state: RunState, *, keep: bool = False
) -> tuple[RunState, StepRecord, Tensor]:
    """Take one inner step: g = ∇θ ℓ(θ, s; b), (θ, o) = U(θ, o, g; α), s = S(s; θ, b).

    Returns:
        The state after it, what `step_back` wants to know of it, and its loss.
    """
    inputs = steps.inputs(state, feed.batch(k), feed.noise(k))
    activations: list[Tensor] | None = None
    if keep and steps.kept_bytes(inputs) is not None:
        (g, s, counters, loss), activations = steps.gradient_keeping(inputs)
    else:
        g, s, counters, loss = steps.gradient(inputs)
    theta, o = _update(steps, feed, k=k, state=state, gradients=g)
    after = RunState(parameters=theta, optimizer=o, statistics=s, counters=counters)
    return after, StepRecord(state, g, activations), loss


def judge(steps: Steps, feed: Feed, final: RunState) -> tuple[Tensor, Carry]:
    """Return Λ of the trained network and its adjoints, with which the way back begins."""
    total: Any = None
    for index in range(feed.outer_count):
        batch, noise, share = feed.outer(index)
        try:
            judged = steps.outer(steps.inputs(final, batch, noise))
        except (RuntimeError, ValueError, IndexError) as error:
            error.add_note(f"while judging the trained network on {describe(batch[0])}")
            raise
        part = tree_map(lambda t, w=share: t * w, judged)
        total = part if total is None else tree_map(torch.add, part, total)
    outer_loss, theta_bar, s_bar, constants_bar = total
    o_bar = tree_map(torch.zeros_like, split_state(final.optimizer)[0])
    return outer_loss, Carry(
        parameters=theta_bar,
        optimizer=o_bar,
        statistics=s_bar,
        constants=constants_bar,
        hyperparameters=tree_map(torch.zeros_like, feed.optimizer_values()),
    )


def _keep_from(steps: Steps, feed: Feed, state: RunState) -> int:
    """Return the first step whose activations are kept: as many of the last as fit."""
    start, stop = feed.window.start, feed.window.stop
    if not feed.storage.activations:
        return stop
    each = steps.kept_bytes(steps.inputs(state, feed.batch(start), feed.noise(start)))
    return stop if each is None else max(start, stop - feed.storage.activations // max(each, 1))


def _update(
    steps: Steps, feed: Feed, *, k: int, state: RunState, gradients: Tensors
) -> tuple[Tensors, State]:
    """Return θ and o after U of step k."""
    return steps.update(gradients, state, feed.step_size_at(k), feed.optimizer_values())


# --- backward ------------------------------------------------------------------------------------


def backward(
    steps: Steps,
    feed: Feed,
    run: ForwardRun,
    carry: Carry,
    sweep: Sweeps,
    take: Take,
    reads: HostReads | None = None,
) -> Carry:
    """Carry the adjoints of the end of the window back to its start."""

    def update(index: int, state: RunState, g: Tensors) -> tuple[Tensors, State]:
        return _update(steps, feed, k=feed.window[index], state=state, gradients=g)

    def run_again(index: int, state: RunState) -> GradientResult:
        k = feed.window[index]
        step = steps.gradient(steps.inputs(state, feed.batch(k), feed.noise(k)))
        if reads is not None:
            reads.step_ran_again(k, step.loss, run.losses[k])
        return step

    for index, record in run.trajectory.backwards(update, run_again):
        k = feed.window[index]
        carry, of_step = step_back(steps, feed, k, record=record, carry=carry, sweep=sweep)
        take(k, of_step)
    return carry


def step_back(
    steps: Steps, feed: Feed, k: int, record: StepRecord, carry: Carry, sweep: Sweeps
) -> tuple[Carry, StepAdjoints]:
    """Take one step of the recursion: from the adjoints of step k+1 to those of step k.

    Step k was g = ∇θ ℓ(θ, s; b), (θ, o) = U(θ, o, g; α), s = S(s; θ, b). Going back through it:

    1. (θ̄, ō) through U, which is elementwise and cheap: ḡ, ᾱ, the adjoints of the
       hyperparameters, and the direct parts of θ̄ and ō.
    2. One sweep for everything else. With φ = ℓ + τ <s̄, S>, it is the derivative of ∇φ along ḡ
       for θ and 1 for τ, at τ = 0: the rest of θ̄, and s̄, b̄ and those of the constants.
    """
    inputs = steps.inputs(record.state, feed.batch(k), feed.noise(k))
    pulled = steps.pull(
        record.gradients,
        record.state,
        feed.step_size_at(k),
        feed.optimizer_values(),
        parameters_bar=carry.parameters,
        optimizer_bar=carry.optimizer,
    )
    swept = sweep(k, record, inputs, StepBars(pulled.gradients, carry.statistics))
    before = Carry(
        parameters=tree_map(torch.add, pulled.parameters, swept.parameters),
        optimizer=pulled.optimizer,
        statistics=swept.statistics,
        constants=tree_map(torch.add, carry.constants, swept.constants),
        hyperparameters=tree_map(torch.add, carry.hyperparameters, pulled.hyperparameters),
    )
    return before, StepAdjoints(
        step_size=pulled.step_size, images=swept.images, labels=swept.labels
    )
