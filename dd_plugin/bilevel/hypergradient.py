"""The entry points: run the inner training, judge it, and send the gradient back through it.

Last in the flow of the engine. `plan` checks what the caller passes, `driver` differentiates,
`input_adjoints` sends the adjoints back to the caller's tensors, `results` says what comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dd_plugin.bilevel.adjoints import Method, MethodName, WholeGraph, method_of
from dd_plugin.bilevel.batches import Batch
from dd_plugin.bilevel.driver import Differentiated, differentiate_at_once, forward
from dd_plugin.bilevel.functional import FunctionalModel
from dd_plugin.bilevel.host_reads import HostReads
from dd_plugin.bilevel.input_adjoints import InputAdjoints
from dd_plugin.bilevel.inputs import Leaves
from dd_plugin.bilevel.messages import describe
from dd_plugin.bilevel.optimizers import Tensors
from dd_plugin.bilevel.plan import Plan, make_plan, started
from dd_plugin.bilevel.problem import BilevelProblem
from dd_plugin.bilevel.recorded_run import differentiate_recorded
from dd_plugin.bilevel.results import Hypergradient, Unrolled
from dd_plugin.bilevel.step_values import Carry, RunState
from dd_plugin.bilevel.trajectory import Device, Storage
from dd_plugin.bilevel.windows import Full, Window


def hypergradient(
    problem: BilevelProblem | nn.Module | FunctionalModel,
    batches: Sequence[Batch] | Callable[[int], Batch],
    outer_batch: Batch | Sequence[Batch],
    *,
    step_size: float | Tensor | Mapping[str, float | Tensor],
    steps: int | None = None,
    window: Window | None = None,
    method: MethodName | Method = "mixed",
    storage: Storage | None = None,
    seed: int = 0,
    model_seed: int | None = None,
    initial: RunState | None = None,
    parameters: Tensors | None = None,
    statistics: Tensors | None = None,
    constants: Tensors | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    leaves: Sequence[Tensor] = (),
    allow_unused: bool = False,
) -> Hypergradient:
    """Return the outer loss after an inner training run, and its exact gradient for all inputs.

    No object that is passed in is changed: no weight, buffer, flag or ``.grad``, and torch's,
    Python's and NumPy's generators are as they were.

    Args:
        problem: what is trained, how, and how it is judged. A model stands for
            ``BilevelProblem(model)``: plain SGD and cross entropy.
        batches: (images, labels) for every inner step; labels are class indices or probabilities.
            A sequence, or a function of the step. A function is called once per step, and with
            ``leaves`` again on the way back, with the same state of torch's, Python's and NumPy's
            global generators; a batch that then differs is an error.
        outer_batch: (images, labels) on which the trained network is judged, in eval mode unless
            the problem says otherwise. Several, when one would not fit into memory: their mean is
            taken, weighted by size.
        step_size: a number, a 0-d tensor, one value per step ``(steps,)``, or a mapping from
            parameter group to these.
        steps: the length of the run; by default the number of batches.
        window: what is differentiated: `Full` (default), `Last` or `Random`.
        method: ``"mixed"``, forward over reverse; ``"reverse"``, double backward of each step,
            for models with operations that lack forward-mode rules, and chosen by itself then;
            ``"autograd"``, the whole graph in memory, to check the others. These are the names of
            the objects in `dd_plugin.bilevel.adjoints`, which are taken as well.
        storage: how the trajectory is kept: `Device` (default), `Host` or `Recompute`.
        seed: decides every random number of the run: of the model, of a function ``batches``, of
            a random window. Change it from one outer step to the next.
        model_seed: decides the model's own random numbers instead of ``seed``, for networks that
            share everything else.
        initial: the state to start from, such as the ``final`` of another run; by default the
            model's own tensors and a fresh optimizer state.
        parameters: weights to start from instead, by name; those left out are the model's.
        statistics: the same for running statistics.
        constants: the same for what the run holds constant (`momentum_shift` and so on).
        hyperparameters: values to use instead of the optimizer's own.
        leaves: tensors that the batches, the outer batch, step sizes, hyperparameters,
            ``parameters``, ``statistics`` or ``constants`` were computed from; their gradients
            are then in ``result.leaves``.
        allow_unused: take a gradient of zeros for a leaf that no input was computed from, instead
            of raising an error.

    Returns:
        The loss, the gradients and the final state; see `Hypergradient`.

    Raises:
        TypeError, ValueError: an input is not as described.
        RuntimeError: an operation of the model has no second derivative at all.
        VerificationError: the first backward sweep is wrong; see `BilevelProblem`.
    """
    how = method_of(method)
    window = _instance(window, Full(), "bounds", "`window` must be a window such as `Last(10)`")
    storage = _instance(storage, Device(), "segment", "`storage` must be one such as `Host()`")
    plan = make_plan(
        problem,
        batches,
        outer_batch,
        step_size=step_size,
        steps=steps,
        seed=seed,
        model_seed=model_seed,
        hyperparameters=hyperparameters,
        window=window,
        storage=storage,
    )
    pulled = Leaves(leaves)
    if not plan.outer_batches:
        raise ValueError("`outer_batch` must hold at least one batch, got none")
    start = {"parameters": parameters, "statistics": statistics, "constants": constants}
    with started(plan, initial, start) as (functions, state):
        plan.batches.expect_return(plan.window, bool(pulled.tensors))
        adjoints, reads = InputAdjoints(plan, pulled, start), HostReads(plan)
        take = adjoints.take
        if isinstance(how, WholeGraph):
            outcome = differentiate_at_once(functions, plan, state, take, reads=reads)
        else:
            outcome = differentiate_recorded(functions, plan, state, how, take=take, reads=reads)
        carry, finite = outcome.carry, False
        if carry is not None:
            adjoints.finish(functions, outcome.run.final, carry)
            finite = reads.finish(_gradients(adjoints, carry))
        if carry is None or not reads.finite:
            adjoints = InputAdjoints(plan, pulled, start)
            carry = adjoints.fill_with_nan(functions, outcome.run.final)
            adjoints.finish(functions, outcome.run.final, carry)
        elif not allow_unused:
            adjoints.check_used()
        return _result(
            plan, outcome, adjoints, carry=carry, finite=finite, bad_step=reads.first_nonfinite
        )


def _result(
    plan: Plan,
    outcome: Differentiated,
    adjoints: InputAdjoints,
    *,
    carry: Carry,
    finite: bool,
    bad_step: int | None,
) -> Hypergradient:
    return Hypergradient(
        outer_loss=outcome.outer_loss,
        inner_losses=torch.stack(outcome.run.losses),
        finite=finite,
        first_nonfinite=bad_step,
        start=plan.window.start,
        stop=plan.window.stop,
        batches=dict(sorted(adjoints.batches.items())),
        leaves=adjoints.leaves,
        step_size=adjoints.step_size,
        hyperparameters=carry.hyperparameters,
        parameters=carry.parameters,
        statistics=carry.statistics,
        optimizer_state=carry.optimizer,
        constants=carry.constants,
        final=outcome.run.final,
        method=outcome.method,
        trajectory_bytes=outcome.run.trajectory_bytes,
    )


def _gradients(adjoints: InputAdjoints, carry: Carry) -> tuple[Any, ...]:
    """Return all gradients that a caller may use."""
    return (
        [(bars.images, bars.labels) for bars in adjoints.batches.values()],
        adjoints.leaves,
        adjoints.step_size,
        carry.hyperparameters,
        carry.parameters,
        carry.statistics,
        carry.constants,
    )


def unroll(
    problem: BilevelProblem | nn.Module | FunctionalModel,
    batches: Sequence[Batch] | Callable[[int], Batch],
    *,
    step_size: float | Tensor | Mapping[str, float | Tensor],
    steps: int | None = None,
    seed: int = 0,
    model_seed: int | None = None,
    initial: RunState | None = None,
    parameters: Tensors | None = None,
    statistics: Tensors | None = None,
    constants: Tensors | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
) -> Unrolled:
    """Run the inner training alone: the same steps that `hypergradient` takes, to the bit.

    Args and errors are those of `hypergradient`.
    """
    plan = make_plan(
        problem,
        batches,
        (),
        step_size=step_size,
        steps=steps,
        seed=seed,
        model_seed=model_seed,
        hyperparameters=hyperparameters,
    )
    start = {"parameters": parameters, "statistics": statistics, "constants": constants}
    with started(plan, initial, start) as (functions, state):
        run = forward(functions, plan, state)
    return Unrolled(run.final, torch.stack(run.losses))


def _instance(value: Any, default: Any, method: str, rule: str) -> Any:
    """Return a value, or the default for None.

    Raises:
        TypeError: it has no such method, or is a class instead of one of its instances.
    """
    if value is None:
        return default
    if isinstance(value, type) or not hasattr(value, method):
        raise TypeError(f"{rule}, got {describe(value)}")
    return value
