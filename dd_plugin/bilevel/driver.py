"""One run of the engine: forward through the inner steps, judge, and back again.

Between `hypergradient`, the entry point, and the parts that it strings together: `steps` has the
functions of one step, `checks` and `inputs` what goes into them, `trajectory` what is kept between
the two sweeps. The recursion and its cost are in ``docs/concepts/engine.md``.
"""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from dd_plugin.bilevel.checks import CheckedBatches, check_outer_batches, starting_state
from dd_plugin.bilevel.foreign_models import no_grad
from dd_plugin.bilevel.foreign_models.second_order import missing_rule_operation
from dd_plugin.bilevel.functional import FunctionalModel
from dd_plugin.bilevel.inputs import Batch, Leaves, Schedule, describe, integer, level_of_caller
from dd_plugin.bilevel.optimizers import State, Tensors
from dd_plugin.bilevel.problem import BilevelProblem
from dd_plugin.bilevel.results import BatchGradient, Hypergradient
from dd_plugin.bilevel.step_values import (
    RunState,
    StepInputs,
    SweepResult,
    leaves_of,
    split_state,
    tree_map,
)
from dd_plugin.bilevel.steps import Steps
from dd_plugin.bilevel.trajectory import StepRecord, Storage, Trajectory
from dd_plugin.bilevel.verification import verify
from dd_plugin.bilevel.whole_graph import differentiate_whole_run
from dd_plugin.seeds import InnerPurpose, mix, nth_seed, untouched_generators

Method = Literal["mixed", "reverse", "autograd"]


class MissingRuleWarning(UserWarning):
    """An operation has no forward-mode rule, so the slower ``method="reverse"`` was used."""


class Run:
    """One call of `hypergradient`."""

    def __init__(
        self,
        problem: BilevelProblem | nn.Module | FunctionalModel,
        batches: Any,
        outer_batch: Any,
        step_size: Any,
        steps: int | None,
        seed: int,
        model_seed: int | None,
        hyperparameters: Mapping[str, Any] | None,
        leaves: Sequence[Tensor],
        allow_unused: bool = True,
    ) -> None:
        if not isinstance(problem, BilevelProblem):
            problem = BilevelProblem(problem)
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "the engine differentiates, which torch.inference_mode() forbids; call it outside, "
                "or use torch.no_grad() there"
            )
        self.problem = problem
        self.batches = CheckedBatches(problem, batches, steps, integer(seed, "seed"))
        # What the model draws its numbers from.
        self.seed = self.batches.seed if model_seed is None else integer(model_seed, "model_seed")
        self.outer_batches = check_outer_batches(outer_batch)
        like = next(iter(problem.model.parameters.values()))
        self.step_size = Schedule(step_size, self.batches.steps, like, "step_size")
        values: dict[str, Any] = {**problem.optimizer.hyperparameters, **(hyperparameters or {})}
        unknown = sorted(set(values) - set(problem.optimizer.hyperparameters))
        if unknown:
            raise ValueError(
                f"`hyperparameters` has {unknown}, which {problem.optimizer.name} was made "
                f"without; it has {sorted(problem.optimizer.hyperparameters)}. A hyperparameter "
                "that starts as a plain 0 is left out; pass it as a tensor"
            )
        self.hyper = {
            name: Schedule(v, self.batches.steps, like, name, per_step=False)
            for name, v in values.items()
        }
        self.leaves, self.allow_unused = Leaves(leaves), allow_unused
        self.losses: list[Tensor] = []
        self._losses_again: list[tuple[int, Tensor, Tensor]] = []
        self.batch_bars: dict[int, BatchGradient] = {}
        self.made: Batch | None = None
        self.made_bars: tuple[Any, Any] = (None, None)
        self.trajectory_bytes = 0
        self.kept: dict[int, list[Tensor]] = {}
        self.first_nonfinite: int | None = None
        self._finite: bool | None = None

    @contextlib.contextmanager
    def started(self, initial: RunState | None, **given: Tensors | None) -> Iterator[None]:
        """Enter before the first step: checks everything against the model, and sets the state."""
        problem = self.problem
        problem.memory_pool.next_run()
        with untouched_generators(), problem.model.ready(), torch.no_grad():
            self.batches.check(self.outer_batches)
            self.state, self.constants = starting_state(problem, initial, given)
            self.given = {role: t for role, t in given.items() if t is not None}
            self.steps = Steps(problem, ())
            if problem.compiling and not problem.compiled:
                # Eagerly once: what is wrong with the model or the loss is said by the call that
                # it happens in, and a loss that no parameter reaches is no gradient of 0.
                problem.gradient_eager(self._inputs(0, self.state))
            yield

    def _inputs(self, k: int, state: RunState) -> StepInputs:
        """What a step takes, with the draws that belong to the shape of its batch in place."""
        batch = self.batches.values(k)
        self.steps.specs = self.batches.draws(batch[0])
        return self.problem.inputs(state, self.constants, batch, nth_seed(self.seed, k))

    def hyper_values(self) -> dict[str, Any]:
        """The optimizer's hyperparameters, as a step takes them."""
        return {name: schedule.at(0) for name, schedule in self.hyper.items()}

    # Forward.

    def go(self, start: int, stop: int, method: Method, storage: Storage) -> None:
        """Run, judge and differentiate."""
        self.start, self.stop, self.method = start, stop, str(method)
        self.batches.expect_return(range(start, stop), bool(self.leaves.tensors))
        trajectory = Trajectory(storage, stop - start)
        keep_from = self._keep_from(start, stop, storage) if method == "mixed" else stop
        for k in range(start if method == "autograd" else stop):
            before = self.state
            g = self.step(k, keep=k >= keep_from)
            if k >= start:
                trajectory.record(before, g)
        if method == "autograd":
            self._differentiate_whole(start, stop)
            return
        self.trajectory_bytes = trajectory.nbytes() + sum(
            t.untyped_storage().nbytes() for kept in self.kept.values() for t in kept
        )
        self._judge()
        if self._losses_are_finite():
            self._backward(trajectory)
        else:
            self._fill_with_nan()
        self._finish()
        self._check_leaves()

    def step(self, k: int, keep: bool = False) -> Tensors:
        """One inner step; returns its gradient."""
        inputs = self._inputs(k, self.state)
        if keep and self.steps.kept_bytes(inputs) is not None:
            (g, s, counters, loss), self.kept[k] = self.steps.gradient_keeping(inputs)
        else:
            g, s, counters, loss = self.steps.gradient(inputs)
        self.losses.append(loss)
        self.state = RunState(*self._update(k, self.state, g), s, counters)
        return g

    def _keep_from(self, start: int, stop: int, storage: Storage) -> int:
        """The first step whose activations are kept: as many of the last as fit."""
        if not storage.activations:
            return stop
        each = self.steps.kept_bytes(self._inputs(start, self.state))
        return stop if each is None else max(start, stop - storage.activations // max(each, 1))

    def _update(self, k: int, state: RunState, g: Tensors) -> tuple[Tensors, State]:
        return self.steps.update(
            g, state.optimizer, state.parameters, self.step_size.at(k), self.hyper_values()
        )

    def _judge(self) -> None:
        self.bars: list[Any] | None = None
        outer: Any = 0.0
        for index, (images, _) in enumerate(self.outer_batches):
            inputs, share = self._outer_inputs(index)
            try:
                loss, *bars = self.steps.outer(inputs)
            except (RuntimeError, ValueError, IndexError) as error:
                error.add_note(f"while judging the trained network on {describe(images)}")
                raise
            bars = tree_map(lambda t, w=share: t * w, bars)
            outer = loss * share + outer if index else loss * share
            self.bars = bars if self.bars is None else _add(self.bars, bars)
        self.outer_loss = outer

    def _outer_inputs(self, index: int) -> tuple[StepInputs, float]:
        """What the trained network is judged on, and the share of that in the outer loss."""
        images, labels = self.outer_batches[index]
        batch, noise = (
            (images.detach(), labels.detach()),
            mix(self.seed, InnerPurpose.OUTER_BATCH, index),
        )
        inputs = self.problem.inputs(self.state, self.constants, batch, noise)
        return inputs, len(images) / sum(len(x) for x, _ in self.outer_batches)

    def _losses_are_finite(self) -> bool:
        if self._finite is None:
            fine = torch.stack(self.losses).isfinite().reshape(len(self.losses), -1).all(1)
            # One value, for which a GPU is waited for.
            self._finite = bool(fine.all() & self.outer_loss.isfinite().all())
            if not self._finite and not bool(fine.all()):
                self.first_nonfinite = int((~fine).nonzero()[0])
        return self._finite

    # Backward.

    def _backward(self, trajectory: Trajectory) -> None:
        assert self.bars is not None
        theta_bar, s_bar, self.constants_bar = self.bars
        floats, _ = split_state(self.state.optimizer)
        o_bar = tree_map(torch.zeros_like, floats)
        for segment in reversed(trajectory.segments()):
            records = trajectory.rebuild(
                segment,
                lambda i, state, g: self._update(self.start + i, state, g),
                self._again,
            )
            for index in reversed(segment):
                record = records.pop()
                k = self.start + index
                pulled = self.steps.pull(
                    record.gradients,
                    record.state.optimizer,
                    record.state.parameters,
                    self.step_size.at(k),
                    self.hyper_values(),
                    theta_bar,
                    o_bar,
                )
                self.step_size.add(k, pulled.step_size)
                for name, bar in pulled.hyperparameters.items():
                    self.hyper[name].add(0, bar)
                swept = self._sweep(k, record, pulled.gradients, s_bar)
                theta_bar = _add(pulled.parameters, swept.parameters)
                o_bar, s_bar = pulled.optimizer, swept.statistics
                self.constants_bar = _add(self.constants_bar, swept.constants)
                self._take_batch_bar(k, swept.images, swept.labels)
        self.theta_bar, self.o_bar, self.s_bar = theta_bar, o_bar, s_bar

    def _again(self, index: int, state: RunState) -> tuple[Tensors, Tensors, Tensors]:
        k = self.start + index
        g, s, counters, loss = self.steps.gradient(self._inputs(k, state))
        before, roundings = self.losses[k], torch.finfo(loss.dtype).eps ** 0.75
        alike = ((loss - before).abs() <= roundings * (1 + before.abs())).all()
        self._losses_again.append((k, loss, alike))
        return g, s, counters

    def _check_losses_again(self) -> None:
        """See that steps which were run twice had the same loss both times.

        Once at the end of a run, since a GPU has to be waited for, and before a verification.
        """
        again, self._losses_again = self._losses_again, []
        if not again or bool(torch.stack([alike for _, _, alike in again]).all()):
            return
        k, loss = next((k, loss) for k, loss, alike in again if not alike)
        raise RuntimeError(
            f"step {k} gave another loss when it was run again, {loss} after {self.losses[k]}; the "
            "model and the loss must do the same each time (random numbers from torch's global "
            "generators are replayed, those of a generator of their own are not), or pass a "
            "storage that runs no step again, such as `Device()`"
        )

    def _sweep(self, k: int, record: StepRecord, g_bar: Tensors, s_bar: Tensors) -> SweepResult:
        """The adjoints that a step hands to its inputs, verified if it is the first of its kind."""
        args = (self._inputs(k, record.state), g_bar, s_bar)
        swept = self._swept(k, *args)
        problem, batch = self.problem, (args[0].images, args[0].labels)
        kind = (self.method, problem.compiling, *((t.shape, t.dtype) for t in batch))
        if problem.verify and kind not in problem.verified:
            # Another batch than in the forward run would be taken for a wrong sweep.
            self.batches.check_repeats()
            self._check_losses_again()
            forward: dict[str, Any] = {"gradients": record.gradients, "loss": self.losses[k]}
            if k == self.stop - 1:
                after = self.state
                forward |= {"statistics": after.statistics, "counters": after.counters}
            if verify(problem, k, args[0], args[1:], (forward, swept)):
                problem.verified.add(kind)
        return swept

    def _swept(self, k: int, *args: Any) -> SweepResult:
        if self.method == "mixed":
            kept = self.kept.pop(k, None)
            if kept:
                self.steps.kept_bytes(args[0])  # the halves of this shape
                return self.steps.sweep_kept(kept, *args)
            try:
                if no_grad.RESPECTED:
                    return self.steps.sweep(*args)
                self._go_on_in_reverse("`no_grad` of this version of torch")
            except (RuntimeError, NotImplementedError) as error:
                operation = missing_rule_operation(error)
                if operation is None:
                    raise
                self._go_on_in_reverse(operation)
        try:
            return self.problem.sweep_reverse(*args)
        except (RuntimeError, NotImplementedError) as error:
            operation = missing_rule_operation(error)
            if operation is None:
                raise
            raise RuntimeError(
                f"{operation} has no second derivative in torch, so no hypergradient goes "
                "through it; replace it in the model by operations that have one"
            ) from error

    def _go_on_in_reverse(self, operation: str) -> None:
        warnings.warn(
            f'{operation} has no forward-mode rule: method="reverse" is used instead of '
            '"mixed", with the same result, slower and with more memory per step. Pass '
            'method="reverse" to choose it without this warning.',
            MissingRuleWarning,
            stacklevel=level_of_caller(),
        )
        self.method = "reverse"

    def _take_batch_bar(self, k: int, images_bar: Tensor, labels_bar: Tensor | None) -> None:
        if self.batches.is_function and self.leaves.tensors:
            with torch.enable_grad():
                batch = self.batches(k)
            # The same tensors as in the step after: one way through their graph for both.
            if self.made is not None and all(a is b for a, b in zip(batch, self.made, strict=True)):
                images_bar = self.made_bars[0] + images_bar
                labels_bar = None if labels_bar is None else self.made_bars[1] + labels_bar
            else:
                self._pull_made()
            self.made, self.made_bars = batch, (images_bar, labels_bar)
        else:
            self.batch_bars[k] = BatchGradient(images_bar, labels_bar)
            self.batches.forget(k)

    def _pull_made(self) -> None:
        """Pull the adjoints of the batch that a function made last into the leaves."""
        if self.made is not None:
            self.leaves.pull(list(zip(self.made, self.made_bars, strict=True)))
        self.made = None

    def _finish(self) -> None:
        """Pull what came back for the inputs into the leaves."""
        self._pull_made()
        pairs: list[tuple[Tensor, Tensor | None]] = []
        if not self.batches.is_function and self.leaves.tensors:
            for k, bar in self.batch_bars.items():
                images, labels = self.batches(k)
                pairs += [(images, bar.images), (labels, bar.labels)]
                self.batches.forget(k)
        self.batches.check_repeats()
        self._check_losses_again()
        if self.leaves.tensors:
            pairs += self._outer_pairs()
        for schedule in (self.step_size, *self.hyper.values()):
            pairs += schedule.pairs()
        bars = {"constants": self.constants_bar}
        if self.start == 0:
            bars |= {"parameters": self.theta_bar, "statistics": self.s_bar}
        for role, given in self.given.items():
            pairs += [(t, bars[role][name]) for name, t in given.items() if role in bars]
        self.leaves.pull(pairs)

    def _check_leaves(self) -> None:
        """See `Leaves.check_used`; what is given for outside of the window counts as well."""
        if self.allow_unused or not self._losses_are_finite():
            return

        def batch(k: int) -> Batch:
            with torch.enable_grad():
                return self.batches(k)

        given = [t for tensors in self.given.values() for t in tensors.values()]
        outer = itertools.chain(*self.outer_batches)
        self.leaves.check_used(
            itertools.chain([given, outer], map(batch, range(self.batches.steps)))
        )

    def _outer_pairs(self) -> list[tuple[Tensor, Tensor | None]]:
        """The outer images and labels that were made from something, with their adjoints."""
        pairs: list[tuple[Tensor, Tensor | None]] = []
        for index, batch in enumerate(self.outer_batches):
            made = {
                r: t for r, t in zip(("images", "labels"), batch, strict=True) if t.requires_grad
            }
            if made:
                inputs, share = self._outer_inputs(index)
                bars = self.problem.outer_batch(inputs, list(made))
                bars = [None if bar is None else bar * share for bar in bars]
                pairs += zip(made.values(), bars, strict=True)
        return pairs

    def _fill_with_nan(self) -> None:
        def fill(tree: Any) -> Any:
            return tree_map(lambda t: torch.full_like(t, float("nan")), tree)

        self.theta_bar, self.s_bar = fill(self.state.parameters), fill(self.state.statistics)
        self.o_bar = fill(split_state(self.state.optimizer)[0])
        self.constants_bar = fill(self.constants)
        for schedule in (self.step_size, *self.hyper.values()):
            schedule._bars = fill(schedule._bars)
        self.leaves.gradients = fill(self.leaves.gradients)
        for k in range(self.start, self.stop):
            images, labels = self.batches.values(k)
            soft = fill(labels) if labels.is_floating_point() else None
            self.batch_bars[k] = BatchGradient(fill(images), soft)

    def _differentiate_whole(self, start: int, stop: int) -> None:
        whole = differentiate_whole_run(
            self.problem,
            self.state,
            self.constants,
            [self.batches.values(k) for k in range(start, stop)],
            [nth_seed(self.seed, k) for k in range(start, stop)],
            [self.step_size.at(k) for k in range(start, stop)],
            self.hyper_values(),
            [(x.detach(), y.detach()) for x, y in self.outer_batches],
            [
                mix(self.seed, InnerPurpose.OUTER_BATCH, index)
                for index in range(len(self.outer_batches))
            ],
        )
        self.losses += whole.inner_losses
        self.outer_loss, self.state = whole.outer_loss, whole.final
        if not self._losses_are_finite():
            self._fill_with_nan()
            self._finish()
            return
        self.theta_bar, self.o_bar, self.s_bar = whole.parameters, whole.optimizer, whole.statistics
        self.constants_bar = whole.constants
        for k in range(start, stop):
            self.step_size.add(k, whole.step_sizes[k - start])
            self._take_batch_bar(k, *whole.batches[k - start])
        for name, bar in whole.hyperparameters.items():
            self.hyper[name].add(0, bar)
        self._finish()
        self._check_leaves()

    def result(self) -> Hypergradient:
        """Everything, gathered."""
        step_size = self.step_size.gradient()
        hyper = {name: schedule.gradient() for name, schedule in self.hyper.items()}
        batches = dict(sorted(self.batch_bars.items()))
        everything = leaves_of(
            (
                [(b.images, b.labels) for b in batches.values()],
                self.leaves.gradients,
                step_size,
                hyper,
                self.theta_bar,
                self.s_bar,
                self.constants_bar,
            )
        )
        gradients = [t for t in everything if isinstance(t, Tensor) and t.numel()]
        # NaN and infinity make the largest entry so. One value, for which a GPU is waited for.
        fine = self._losses_are_finite() and bool(
            get_total_norm(gradients, float("inf")).isfinite()
        )
        return Hypergradient(
            outer_loss=self.outer_loss,
            inner_losses=torch.stack(self.losses),
            finite=fine,
            first_nonfinite=self.first_nonfinite,
            start=self.start,
            stop=self.stop,
            batches=batches,
            leaves=tuple(self.leaves.gradients),
            step_size=step_size,
            hyperparameters=hyper,
            parameters=self.theta_bar,
            statistics=self.s_bar,
            optimizer_state=self.o_bar,
            constants=self.constants_bar,
            final=self.state,
            method=self.method,
            trajectory_bytes=self.trajectory_bytes,
        )


def _add(a: Any, b: Any) -> Any:
    return tree_map(torch.add, a, b)
