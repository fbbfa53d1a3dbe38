"""The plan of a run: its batches, seeds, step sizes, window and storage, checked.

First in the flow of a call: `hypergradient` and `unroll` make a plan of their arguments, enter
`started`, and pass both to `driver`. Values that the caller computed from other tensors are
detached here; `input_adjoints` sends their adjoints back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import nn

from dd_plugin.bilevel.batches import Batch
from dd_plugin.bilevel.checks import CheckedBatches, check_outer_batches, starting_state
from dd_plugin.bilevel.functional import FunctionalModel
from dd_plugin.bilevel.inputs import Schedule
from dd_plugin.bilevel.messages import integer
from dd_plugin.bilevel.optimizers import Tensors
from dd_plugin.bilevel.problem import BilevelProblem
from dd_plugin.bilevel.step_values import Noise, RunState, leaves_of, rebuilt
from dd_plugin.bilevel.steps import Steps
from dd_plugin.bilevel.tracing.way import laid_out
from dd_plugin.bilevel.trajectory import Device, Storage
from dd_plugin.bilevel.windows import Window
from dd_plugin.seeds import InnerPurpose, mix, nth_seed, untouched_generators


class Feed(Protocol):
    """What the driver asks for, step by step: a `Plan`, or the values of one."""

    @property
    def steps(self) -> range:
        """Return the steps to run."""

    @property
    def window(self) -> range:
        """Return those to go back through, the last ones."""

    @property
    def storage(self) -> Storage:
        """Return how the trajectory of the window is kept."""

    @property
    def outer_count(self) -> int:
        """Return the number of outer batches."""

    def batch(self, k: int) -> Batch:
        """Return the batch of a step, detached."""

    def noise(self, k: int) -> Noise:
        """Return the seed of the random numbers of a step, or the numbers."""

    def step_size_at(self, k: int) -> Any:
        """Return the step size of a step: a 0-d tensor, or a dict of these."""

    def optimizer_values(self) -> dict[str, Any]:
        """Return the optimizer's hyperparameters, as a step takes them."""

    def outer(self, index: int) -> tuple[Batch, int, float]:
        """Return an outer batch, its seed, and its share in the outer loss."""


@dataclass(frozen=True)
class Plan:
    """One run of a problem.

    Attributes:
        problem: the model, how it is trained and how it is judged.
        batches: b_k of every step.
        outer_batches: the real data that the trained network is judged on.
        step_size: α_k of every step.
        hyperparameters: those of the inner optimizer, by name.
        seed: decides what the model draws.
        window: the steps to go back through. The run ends where it ends.
        storage: how the trajectory of the window is kept.
    """

    problem: BilevelProblem
    batches: CheckedBatches
    outer_batches: list[Batch]
    step_size: Schedule
    hyperparameters: dict[str, Schedule]
    seed: int
    window: range
    storage: Storage

    @property
    def steps(self) -> range:
        """Return the steps to run: up to the end of the window."""
        return range(self.window.stop)

    @property
    def outer_count(self) -> int:
        """Return the number of outer batches."""
        return len(self.outer_batches)

    def batch(self, k: int) -> Batch:
        """Return the batch of a step, detached."""
        return self.batches.values(k)

    def noise(self, k: int) -> int:
        """Return the seed of the random numbers of a step."""
        return nth_seed(self.seed, k)

    def step_size_at(self, k: int) -> Any:
        """Return the step size of a step: a 0-d tensor, or a dict of these."""
        return self.step_size.at(k)

    def optimizer_values(self) -> dict[str, Any]:
        """Return the optimizer's hyperparameters, as a step takes them."""
        return {name: schedule.at(0) for name, schedule in self.hyperparameters.items()}

    def outer(self, index: int) -> tuple[Batch, int, float]:
        """Return an outer batch, its seed, and its share in the outer loss."""
        images, labels = self.outer_batches[index]
        share = len(images) / sum(len(x) for x, _ in self.outer_batches)
        return (
            (images.detach(), labels.detach()),
            mix(self.seed, InnerPurpose.OUTER_BATCH, index),
            share,
        )

    def before_window(self) -> Plan:
        """Return the plan of the steps before the window alone."""
        start = self.window.start
        return replace(self, window=range(start, start))


def make_plan(
    problem: BilevelProblem | nn.Module | FunctionalModel,
    batches: Any,
    outer_batch: Any,
    *,
    step_size: Any,
    steps: int | None,
    seed: int,
    model_seed: int | None,
    hyperparameters: Mapping[str, Any] | None,
    window: Window | None = None,
    storage: Storage | None = None,
) -> Plan:
    """Check the arguments of `hypergradient`, as far as the model need not run for it.

    Without a window all steps are run, and none is gone back through.
    """
    if not isinstance(problem, BilevelProblem):
        problem = BilevelProblem(problem)
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "the engine differentiates, which torch.inference_mode() forbids; call it outside, "
            "or use torch.no_grad() there"
        )
    checked = CheckedBatches(problem, batches, steps, integer(seed, "seed"))
    model_seed = checked.seed if model_seed is None else integer(model_seed, "model_seed")
    outer_batches = check_outer_batches(outer_batch)
    like = next(iter(problem.model.parameters.values()))
    schedule = Schedule(step_size, checked.steps, like, "step_size")
    values: dict[str, Any] = {**problem.optimizer.hyperparameters, **(hyperparameters or {})}
    unknown = sorted(set(values) - set(problem.optimizer.hyperparameters))
    if unknown:
        raise ValueError(
            f"`hyperparameters` has {unknown}, which {problem.optimizer.name} was made "
            f"without; it has {sorted(problem.optimizer.hyperparameters)}. A hyperparameter "
            "that starts as a plain 0 is left out; pass it as a tensor"
        )
    bounds = (checked.steps, checked.steps)
    if window is not None:
        bounds = window.bounds(checked.steps, mix(checked.seed, InnerPurpose.WINDOW))
    return Plan(
        problem=problem,
        batches=checked,
        outer_batches=outer_batches,
        step_size=schedule,
        hyperparameters={
            name: Schedule(value, checked.steps, like, name, per_step=False)
            for name, value in values.items()
        },
        seed=model_seed,
        window=range(*bounds),
        storage=Device() if storage is None else storage,
    )


@contextlib.contextmanager
def started(
    plan: Plan, initial: RunState | None, start: Mapping[str, Tensors | None]
) -> Iterator[tuple[Steps, RunState]]:
    """Enter for a run: everything is checked against the model, which is made ready for it.

    Args:
        plan: of the run.
        initial: see `hypergradient`.
        start: ``parameters``, ``statistics`` and ``constants`` of `hypergradient`.

    Yields:
        The functions of the run's steps, and the state that it begins with.
    """
    problem = plan.problem
    problem.memory_pool.next_run()
    with untouched_generators(), problem.model.ready(), torch.no_grad():
        plan.batches.check(plan.outer_batches)
        state, constants = starting_state(problem, initial, start)
        is_traced = any(key[1] == problem.way for key in problem.compiled)
        if problem.channels_last and problem.compiling and is_traced:
            # Once, instead of in each function that takes the first state. Functions that were
            # traced do not go on eagerly, where a model may need contiguous tensors.
            state = rebuilt(state, iter([laid_out(t, True) for t in leaves_of(state)]))
        steps = Steps(problem, constants)
        if problem.compiling and not problem.compiled:
            # Eagerly once: an error of the model or the loss then points at the call that it
            # happens in, and a loss that no parameter reaches is no gradient of 0.
            problem.gradient_eager(steps.inputs(state, plan.batches.values(0), plan.noise(0)))
        yield steps, state
