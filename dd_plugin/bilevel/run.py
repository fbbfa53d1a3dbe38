"""One run of the engine: forward through the inner steps, judge, and back again.

Between `hypergradient`, the entry point, and the parts that it strings together: `steps` has the
functions of one step, `inputs` what goes into them, `trajectory` what is kept between the two
sweeps. The recursion and its cost are in ``docs/concepts/engine.md``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from dd_plugin.bilevel.inputs import (
    Batch,
    Batches,
    Leaves,
    Schedule,
    check_batch,
    check_labels,
    check_place,
    describe,
    integer,
)
from dd_plugin.bilevel.optimizers import State, Tensors
from dd_plugin.bilevel.oracle import differentiate_whole_run
from dd_plugin.bilevel.problem import BilevelProblem, cross_entropy
from dd_plugin.bilevel.randomness import Draws, mix
from dd_plugin.bilevel.results import BatchGradient, Hypergradient
from dd_plugin.bilevel.second_order import missing_rule_operation
from dd_plugin.bilevel.steps import Steps
from dd_plugin.bilevel.trajectory import Storage, Trajectory
from dd_plugin.bilevel.trees import RunState, StepInputs, split_state

Method = Literal["mixed", "reverse", "autograd"]


class MissingRuleWarning(UserWarning):
    """An operation has no forward-mode rule, so the slower ``method="reverse"`` was used."""


def _override(base: Tensors, given: Tensors | None, what: str) -> Tensors:
    """``base`` with the tensors of ``given`` in their place, detached."""
    if given is None:
        return dict(base)
    if not isinstance(given, Mapping):
        raise TypeError(f"`{what}` must be a mapping from name to tensor, got {describe(given)}")
    for name, t in given.items():
        if name not in base:
            raise ValueError(
                f"`{what}` has {name!r}, which is none of the model's {what}; "
                f"they are {sorted(base)[:8]}{' ...' if len(base) > 8 else ''}"
            )
        if t.shape != base[name].shape or t.dtype != base[name].dtype:
            raise ValueError(
                f"`{what}[{name!r}]` must have shape {tuple(base[name].shape)} and dtype "
                f"{base[name].dtype}, got {tuple(t.shape)} and {t.dtype}"
            )
    return {name: given.get(name, t).detach() for name, t in base.items()}


class Run:
    """One call of `hypergradient`."""

    def __init__(
        self,
        problem: BilevelProblem,
        batches: Any,
        outer_batch: Any,
        step_size: Any,
        steps: int | None,
        seed: int,
        hyperparameters: Mapping[str, Any] | None,
        leaves: Sequence[Tensor],
    ) -> None:
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "the engine differentiates, which torch.inference_mode() forbids; call it outside, "
                "or use torch.no_grad() there"
            )
        self.problem, self.seed = problem, integer(seed, "seed")
        self.model = problem.model
        self.like = next(iter(self.model.parameters.values()))
        self.checked: set[int] = set()
        self.batches = Batches(batches, steps, self.seed)
        several = isinstance(outer_batch, Sequence) and not (
            outer_batch and isinstance(outer_batch[0], Tensor)
        )
        parts = outer_batch if several else [outer_batch]
        self.outer_batches = [check_batch(part, "the outer batch") for part in parts]
        like = self.like
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
        self.leaves = Leaves(leaves)
        self.losses: list[Tensor] = []
        self.batch_bars: dict[int, BatchGradient] = {}
        self.given: list[tuple[str, Tensors]] = []
        self.trajectory_bytes = 0
        self.kept: dict[int, list[Tensor]] = {}

    def set_start(
        self,
        initial: RunState | None,
        parameters: Tensors | None,
        statistics: Tensors | None,
        constants: Tensors | None,
    ) -> None:
        """Check everything against the model, and take the state to begin from."""
        # A sequence is checked now, before anything is computed; a function, step by step.
        for k in range(1 if self.batches.is_function else self.batches.steps):
            self._batch(k)
        logits, _ = next(iter(self.problem.probes.values()))
        for outer in self.outer_batches:
            check_place(outer, self.like, "the outer batch")
            self._check_labels(outer[1], logits, self.problem.outer_loss, "the outer batch")
        model = self.model
        theta, s, counters = model.parameters, model.statistics, model.counters
        optimizer_state: State | None = None
        if initial is not None:
            self.problem.check_state(initial)
            theta, s, counters = initial.parameters, initial.statistics, initial.counters
            optimizer_state = initial.optimizer
        theta = _override(theta, parameters, "parameters")
        s = _override(s, statistics, "statistics")
        self.constants = _override(model.constants, constants, "constants")
        if optimizer_state is None:
            optimizer_state = self.problem.optimizer.init(theta)
        self.state = RunState(theta, optimizer_state, s, dict(counters))
        self.given = [
            (role, tensors)
            for role, tensors in (
                ("parameters", parameters),
                ("statistics", statistics),
                ("constants", constants),
            )
            if tensors is not None
        ]
        self.steps = Steps(self.problem, ())
        if self.problem.compile and not self.problem.compiled:
            # Eagerly once: what is wrong with the model or the loss is said by the call that it
            # happens in, and a loss that no parameter reaches is no gradient of 0.
            self.problem.gradient_eager(self._inputs(0, self.state))

    def _batch(self, k: int) -> Batch:
        """The batch of a step, checked when it is asked for first."""
        batch = self.batches.values(k)
        if k not in self.checked:
            what = f"batch {k}"
            check_place(batch, self.like, what)
            logits, _ = self._probe(batch[0], what)
            self._check_labels(batch[1], logits, self.problem.inner_loss, what)
            self.checked.add(k)
        return batch

    def _check_labels(self, labels: Tensor, logits: Tensor, loss: Any, what: str) -> None:
        """Check labels if the loss is one of those that are known to classify."""
        if loss is cross_entropy:
            check_labels(labels, logits, what)
        elif loss is F.cross_entropy or isinstance(loss, nn.CrossEntropyLoss):
            check_labels(labels, logits, what, getattr(loss, "ignore_index", -100))

    def _probe(self, images: Tensor, what: str) -> tuple[Tensor, Any]:
        """Logits, without data, and draws of a training forward on images of that shape."""
        probes, key = self.problem.probes, self.problem.probe_key(images)
        if key not in probes:
            draws = Draws(0)
            try:
                logits = self.model.probe(images, draws)
            except (RuntimeError, ValueError, IndexError) as error:
                raise ValueError(
                    f"the model does not run in train mode on the images of {what}, "
                    f"{describe(images)}: {error}"
                ) from error
            probes[key] = (torch.empty_like(logits, device="meta"), draws.specs)
        return probes[key]

    def _inputs(self, k: int, state: RunState) -> StepInputs:
        """What a step takes, with the draws that belong to the shape of its batch in place."""
        batch = self._batch(k)
        self.steps.specs = self.problem.probes[self.problem.probe_key(batch[0])][1]
        return self.problem.inputs(state, self.constants, batch, mix(self.seed, k))

    def hyper_values(self) -> dict[str, Any]:
        """The optimizer's hyperparameters, as a step takes them."""
        return {name: schedule.at(0) for name, schedule in self.hyper.items()}

    # Forward.

    def go(self, start: int, stop: int, method: Method, storage: Storage) -> None:
        """Run, judge and differentiate."""
        self.start, self.stop, self.method = start, stop, str(method)
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
        total = sum(len(images) for images, _ in self.outer_batches)
        self.bars: list[Any] | None = None
        outer = torch.zeros(())
        for index, (images, labels) in enumerate(self.outer_batches):
            batch = (images.detach(), labels.detach())
            noise = mix(self.seed, 1 << 41, index)
            inputs = self.problem.inputs(self.state, self.constants, batch, noise)
            try:
                loss, *bars = self.steps.outer(inputs)
            except (RuntimeError, ValueError, IndexError) as error:
                error.add_note(f"while judging the trained network on {describe(images)}")
                raise
            share = len(images) / total
            bars = pytree.tree_map(lambda t, w=share: t * w, bars)
            outer = loss * share + (outer if index else 0.0)
            self.bars = bars if self.bars is None else _add(self.bars, bars)
        self.outer_loss = outer

    def _losses_are_finite(self) -> bool:
        stacked = torch.stack(self.losses)
        fine = torch.isfinite(stacked).reshape(len(stacked), -1).all(1)
        self.first_nonfinite = None if bool(fine.all()) else int((~fine).nonzero()[0])
        return self.first_nonfinite is None and bool(torch.isfinite(self.outer_loss).all())

    # Backward.

    def _backward(self, trajectory: Trajectory) -> None:
        assert self.bars is not None
        theta_bar, s_bar, self.constants_bar = self.bars
        floats, _ = split_state(self.state.optimizer)
        o_bar = pytree.tree_map(torch.zeros_like, floats)
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
                swept = self._sweep(k, record.state, pulled.gradients, s_bar)
                theta_bar = _add(pulled.parameters, swept.parameters)
                o_bar, s_bar = pulled.optimizer, swept.statistics
                self.constants_bar = _add(self.constants_bar, swept.constants)
                self._take_batch_bar(k, swept.images, swept.labels)
        self.theta_bar, self.o_bar, self.s_bar = theta_bar, o_bar, s_bar

    def _again(self, index: int, state: RunState) -> tuple[Tensors, Tensors, Tensors]:
        g, s, counters, _ = self.steps.gradient(self._inputs(self.start + index, state))
        return g, s, counters

    def _sweep(self, k: int, state: RunState, g_bar: Tensors, s_bar: Tensors) -> Any:
        args = (self._inputs(k, state), g_bar, s_bar)
        if self.method == "mixed":
            kept = self.kept.pop(k, None)
            if kept:
                self.steps.kept_bytes(args[0])  # the halves of this shape
                return self.steps.sweep_kept(kept, *args)
            try:
                return self.steps.sweep(*args)
            except (RuntimeError, NotImplementedError) as error:
                operation = missing_rule_operation(error)
                if operation is None:
                    raise
                warnings.warn(
                    f'{operation} has no forward-mode rule: method="reverse" is used instead of '
                    '"mixed", with the same result, slower and with more memory per step. Pass '
                    'method="reverse" to choose it without this warning.',
                    MissingRuleWarning,
                    stacklevel=6,
                )
                self.method = "reverse"
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

    def _take_batch_bar(self, k: int, images_bar: Tensor, labels_bar: Tensor | None) -> None:
        if self.batches.is_function and self.leaves.tensors:
            with torch.enable_grad():
                images, labels = self.batches(k)
            self.leaves.pull([(images, images_bar), (labels, labels_bar)])
        else:
            self.batch_bars[k] = BatchGradient(images_bar, labels_bar)

    def _finish(self) -> None:
        """Pull what came back for the inputs into the leaves."""
        pairs: list[tuple[Tensor, Tensor | None]] = []
        if not self.batches.is_function:
            for k, bar in self.batch_bars.items():
                images, labels = self.batches(k)
                pairs += [(images, bar.images), (labels, bar.labels)]
        for schedule in (self.step_size, *self.hyper.values()):
            pairs += schedule.pairs()
        bars = {"constants": self.constants_bar}
        if self.start == 0:
            bars |= {"parameters": self.theta_bar, "statistics": self.s_bar}
        for role, given in self.given:
            pairs += [(t, bars[role][name]) for name, t in given.items() if role in bars]
        self.leaves.pull(pairs)

    def _fill_with_nan(self) -> None:
        def fill(tree: Any) -> Any:
            return pytree.tree_map(lambda t: torch.full_like(t, float("nan")), tree)

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
            [self._batch(k) for k in range(start, stop)],
            [mix(self.seed, k) for k in range(start, stop)],
            [self.step_size.at(k) for k in range(start, stop)],
            self.hyper_values(),
            [(x.detach(), y.detach()) for x, y in self.outer_batches],
            [mix(self.seed, 1 << 41, index) for index in range(len(self.outer_batches))],
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

    def result(self) -> Hypergradient:
        """Everything, gathered."""
        step_size = self.step_size.gradient()
        hyper = {name: schedule.gradient() for name, schedule in self.hyper.items()}
        batches = dict(sorted(self.batch_bars.items()))
        everything = pytree.tree_leaves(
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
        sums = [t.sum() for t in everything if isinstance(t, Tensor)]
        fine = self.first_nonfinite is None and all(
            bool(torch.isfinite(s).all()) for s in (self.outer_loss, *sums)
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
    return pytree.tree_map(torch.add, a, b)
