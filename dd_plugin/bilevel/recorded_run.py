"""The window of a run as one CUDA graph: recorded at its second run, replayed from then on.

Between `hypergradient` and `driver`. A replay of a step leaves the GPU waiting for the Python
around it, which a replay of the whole window does not: it is one launch, whatever the number of
steps. What the window is computed from (`RunValues`) is copied into the graph, the adjoints are
copied out.

A run is recorded where its functions are traced or compiled, on a GPU, with its states on it, and
after a run of its kind has gone well as it is and was verified. Where it cannot be, its steps are
recorded one by one, see `tracing.recorded`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from dd_plugin.bilevel.adjoints import ForwardOverReverse, SweepMethod, Sweeps
from dd_plugin.bilevel.batches import Batch
from dd_plugin.bilevel.driver import (
    Differentiated,
    Take,
    backward,
    differentiate,
    forward,
    judge,
)
from dd_plugin.bilevel.host_reads import HostReads
from dd_plugin.bilevel.optimizers import Tensors
from dd_plugin.bilevel.plan import Plan
from dd_plugin.bilevel.problem import BilevelProblem
from dd_plugin.bilevel.step_values import (
    Carry,
    Noise,
    RunState,
    StepAdjoints,
    leaves_of,
    rebuilt,
)
from dd_plugin.bilevel.steps import Steps, form_of
from dd_plugin.bilevel.tracing.compile import CompiledFunction
from dd_plugin.bilevel.tracing.recorded import (
    Recorded,
    as_they_are,
    is_out_of_memory,
    on_gpu,
)
from dd_plugin.bilevel.trajectory import Device, ForwardRun, Recompute, Storage, Trajectory
from dd_plugin.memory import memory_of_gpu

# Operations in one graph. 100,000 take seconds to record and some hundred MB to hold.
MOST_OPERATIONS: Final = 100_000
# Kinds of run per problem: each has a graph and inputs of its own.
MOST_RECORDINGS: Final = 4
# The share of the memory of a GPU that the inputs of a recording may take.
_SHARE_FOR_INPUTS: Final = 1 / 16


class RunValues(NamedTuple):
    """All tensors that the window of a run is computed from, as one tree.

    Attributes:
        state: at the start of the window.
        constants: held constant.
        fixed: what the model never moves.
        batches: per step of the window.
        noises: the random numbers of each step.
        step_sizes: per step of the window.
        hyperparameters: of the inner optimizer.
        outer_batches: what the trained network is judged on.
    """

    state: RunState
    constants: Tensors
    fixed: Tensors
    batches: list[Batch]
    noises: list[Noise]
    step_sizes: list[Any]
    hyperparameters: dict[str, Any]
    outer_batches: list[Batch]


class ValuesFeed(NamedTuple):
    """The values of a window as the driver asks for them; see `plan.Feed`.

    Attributes:
        values: of the window.
        window: its steps.
        storage: how its trajectory is kept.
        plan: where seeds come from, instead of the drawn numbers.
    """

    values: RunValues
    window: range
    storage: Storage
    plan: Plan | None = None

    @property
    def steps(self) -> range:
        """Return the steps to run: those of the window."""
        return self.window

    @property
    def outer_count(self) -> int:
        """Return the number of outer batches."""
        return len(self.values.outer_batches)

    def batch(self, k: int) -> Batch:
        """Return the batch of a step."""
        return self.values.batches[k - self.window.start]

    def noise(self, k: int) -> Noise:
        """Return the random numbers of a step, or their seed."""
        drawn = self.values.noises[k - self.window.start]
        return drawn if self.plan is None else self.plan.noise(k)

    def step_size_at(self, k: int) -> Any:
        """Return the step size of a step."""
        return self.values.step_sizes[k - self.window.start]

    def optimizer_values(self) -> dict[str, Any]:
        """Return the optimizer's hyperparameters."""
        return self.values.hyperparameters

    def outer(self, index: int) -> tuple[Batch, int, float]:
        """Return an outer batch, its seed, and its share in the outer loss."""
        if self.plan is not None:
            return self.plan.outer(index)
        batches = self.values.outer_batches
        share = len(batches[index][0]) / sum(len(images) for images, _ in batches)
        return batches[index], 0, share  # a recorded loss draws nothing


class WindowResult(NamedTuple):
    """What comes out of a window, as one tree."""

    final: RunState
    losses: list[Tensor]
    outer_loss: Tensor
    carry: Carry
    adjoints: list[StepAdjoints]


class _RecordedRun:
    """The window of the runs of one kind.

    Args:
        problem: of the runs.
        method: how they are differentiated.
        storage: how their trajectory is kept.
        values: of one of them.
    """

    def __init__(
        self, problem: BilevelProblem, method: SweepMethod, storage: Storage, values: RunValues
    ) -> None:
        self._problem, self._method, self._storage = problem, method, storage
        self.method = method.name
        self._values = rebuilt(values, itertools.repeat(0))
        self._distinct, self._places = _distinct(leaves_of(values))
        self._result: Any = None
        self._is_tensor: list[bool] = []
        self.trajectory_bytes = 0
        self._recorded = Recorded(
            self._run,
            problem.memory_pool,
            has_run=True,
            instead="its steps are recorded one by one",
        )

    @property
    def is_refused(self) -> bool:
        """Return whether it could not be recorded."""
        return self._recorded.is_refused

    def _run(self, tensors: list[Tensor]) -> list[Tensor]:
        values: RunValues = rebuilt(self._values, iter([tensors[i] for i in self._places]))
        window = range(len(values.batches))
        feed = ValuesFeed(values, window, self._storage)
        steps = Steps(self._problem, values.constants, values.fixed)
        run = forward(steps, feed, values.state, keep_activations=self._method.keeps_activations)
        outer_loss, carry = judge(steps, feed, run.final)
        adjoints: dict[int, StepAdjoints] = {}
        carry = backward(
            steps,
            feed,
            run=run,
            carry=carry,
            sweep=Sweeps(steps, self._method),
            take=adjoints.__setitem__,
        )
        result = WindowResult(
            final=run.final,
            losses=run.losses,
            outer_loss=outer_loss,
            carry=carry,
            adjoints=[adjoints[k] for k in window],
        )
        leaves = leaves_of(result)
        self.trajectory_bytes = run.trajectory_bytes
        self._result = rebuilt(result, itertools.repeat(0))
        self._is_tensor = [isinstance(leaf, Tensor) for leaf in leaves]
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def __call__(self, values: RunValues) -> WindowResult:
        """Return what comes out of the window with these values."""
        leaves = leaves_of(values)
        results = iter(self._recorded([leaves[i].contiguous() for i in self._distinct]))
        filled = [next(results) if is_tensor else None for is_tensor in self._is_tensor]
        result: WindowResult = rebuilt(self._result, iter(filled))
        return result


def differentiate_recorded(
    steps: Steps,
    plan: Plan,
    state: RunState,
    method: SweepMethod,
    take: Take,
    *,
    reads: HostReads,
) -> Differentiated:
    """Return what `driver.differentiate` returns, by a replay where there is one."""
    if not _may_be_recorded(steps.problem, plan, state, method):
        return differentiate(steps, plan, state, method, take=take, reads=reads)
    before = forward(steps, plan.before_window(), state)
    values = _values(steps, plan, before.final)
    kind = _kind(steps.problem, method, plan.storage, values)
    known = steps.problem.recordings.by_kind
    recorded = known.get(kind)
    if recorded is not None:
        try:
            result = recorded(values)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            result = None
        if result is not None and not recorded.is_refused:
            return _handed_over(plan, before, result, recorded, take=take, reads=reads)
        known[kind] = None
    feed = ValuesFeed(values, plan.window, plan.storage, plan)
    is_new = kind not in known and len(known) < MOST_RECORDINGS and on_gpu(leaves_of(values))
    with as_they_are(is_new):
        outcome = differentiate(
            steps, feed, before.final, method, take=take, reads=reads, losses=before.losses
        )
    if is_new and outcome.carry is not None:
        known[kind] = _recording(steps.problem, method, plan.storage, values, by=outcome.method)
    return outcome


def _handed_over(
    plan: Plan,
    before: ForwardRun,
    result: WindowResult,
    recorded: _RecordedRun,
    *,
    take: Take,
    reads: HostReads,
) -> Differentiated:
    """Return a replay's results as those of a run."""
    losses = [*before.losses, *result.losses]
    run = ForwardRun(result.final, losses, Trajectory(plan.storage, 0), recorded.trajectory_bytes)
    if reads.is_to_stop(losses, result.outer_loss):
        return Differentiated(run, result.outer_loss, None, recorded.method)
    for k, adjoints in zip(reversed(plan.window), reversed(result.adjoints), strict=True):
        take(k, adjoints)
    return Differentiated(run, result.outer_loss, result.carry, recorded.method)


def _may_be_recorded(
    problem: BilevelProblem, plan: Plan, state: RunState, method: SweepMethod
) -> bool:
    """Return whether runs of this kind are recorded as a whole, by what is known before one."""
    draws_when_judged = problem.outer_training and any(d for _, d in problem.probes.values())
    return (
        bool(problem.compiling)
        and isinstance(method, ForwardOverReverse)
        and type(plan.storage) in (Device, Recompute)
        and not plan.storage.on_host
        and not draws_when_judged
        and on_gpu(state.parameters.values())
        and _inputs_fit(problem, len(plan.window))
    )


def _inputs_fit(problem: BilevelProblem, steps: int) -> bool:
    """Return whether batches and random numbers of all steps may be on the GPU together."""
    device = next(iter(problem.model.parameters.values())).device
    largest = max(
        math.prod(shape) * dtype.itemsize
        + sum(math.prod(draw.shape) * draw.dtype.itemsize for draw in draws)
        for (shape, dtype, _), (_, draws) in problem.probes.items()
    )
    return 0 < steps * largest <= (memory_of_gpu(device) or 0) * _SHARE_FOR_INPUTS


def _values(steps: Steps, plan: Plan, state: RunState) -> RunValues:
    problem, window = steps.problem, plan.window
    batches = [plan.batch(k) for k in window]
    return RunValues(
        state=state,
        constants=steps.constants,
        fixed=problem.model.fixed,
        batches=batches,
        noises=[
            problem.numbers(problem.draws(images), plan.noise(k))
            for k, (images, _) in zip(window, batches, strict=True)
        ],
        step_sizes=[plan.step_size_at(k) for k in window],
        hyperparameters=plan.optimizer_values(),
        outer_batches=[plan.outer(index)[0] for index in range(plan.outer_count)],
    )


def _kind(
    problem: BilevelProblem, method: SweepMethod, storage: Storage, values: RunValues
) -> tuple[Any, ...]:
    """Return what two runs have in common that one recording serves."""
    leaves = leaves_of(values)
    kinds = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    counts = len(values.batches), len(values.outer_batches)
    form = form_of(values.step_sizes[0], values.hyperparameters)
    return (problem.way, method, storage, form, *counts, tuple(_distinct(leaves)[1]), kinds)


def _distinct(tensors: Sequence[Tensor]) -> tuple[list[int], list[int]]:
    """Return where each tensor occurs first, and for every tensor its place among these.

    Batches that are the same tensors in every step are copied in once.
    """
    places: dict[Any, int] = {}
    first: list[int] = []
    place_of: list[int] = []
    for index, t in enumerate(tensors):
        key = (t.data_ptr(), t.shape, t.stride(), t.dtype) if t.numel() else (index,)
        if key not in places:
            places[key] = len(first)
            first.append(index)
        place_of.append(places[key])
    return first, place_of


def _recording(
    problem: BilevelProblem, method: SweepMethod, storage: Storage, values: RunValues, *, by: str
) -> _RecordedRun | None:
    """Return a recording for runs like one that has gone well, or None if it would not serve.

    Args:
        problem: of the runs.
        method: how they are to be differentiated.
        storage: of their trajectories.
        values: of the run.
        by: the name of the method that the run used in the end.
    """
    functions = [f for f in problem.compiled.values() if isinstance(f, CompiledFunction)]
    operations = len(values.batches) * sum(len(f.graph.graph.nodes) for f in functions)
    if not problem.compiling or by != method.name or operations > MOST_OPERATIONS:
        return None
    return _RecordedRun(problem, method, storage, values)
