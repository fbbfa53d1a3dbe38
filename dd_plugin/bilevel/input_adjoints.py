"""The adjoints of the inputs of a run, and their way back to the caller's tensors.

Filled by `driver`, step by step on the way back, and finished by `hypergradient`. A caller who
computes batches, step sizes or initial weights from other tensors passes these as ``leaves``; the
adjoints are pulled into them by torch's ordinary autograd.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dd_plugin.bilevel.batches import Batch
from dd_plugin.bilevel.inputs import Leaves
from dd_plugin.bilevel.optimizers import Tensors
from dd_plugin.bilevel.plan import Plan
from dd_plugin.bilevel.results import BatchGradient
from dd_plugin.bilevel.step_values import Carry, RunState, StepAdjoints, split_state, tree_map
from dd_plugin.bilevel.steps import Steps


class InputAdjoints:
    """The adjoints of the batches and step sizes of one run.

    The batches of a function are pulled into the leaves as they come, so that the graph of one is
    in memory at a time. Those of a list stay, and are pulled at the end.

    Args:
        plan: of the run.
        leaves: what the caller's inputs were made from.
        start: the caller's initial weights, statistics and constants, by role.

    Attributes:
        batches: those that were not pulled, by step.
        step_size: shaped like the step size that was given, after `finish`.
    """

    def __init__(self, plan: Plan, leaves: Leaves, start: Mapping[str, Tensors | None]) -> None:
        self._plan, self._leaves = plan, leaves
        self._start = {role: tensors for role, tensors in start.items() if tensors is not None}
        self.batches: dict[int, BatchGradient] = {}
        self.step_size: Any = plan.step_size.zeros()
        self._step_sizes: dict[int, Any] = {}
        # The batch that a function made last, and its adjoints so far.
        self._latest: Batch | None = None
        self._latest_bars: tuple[Any, Any] = (None, None)

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """Return the gradients of the leaves, after `finish`."""
        return tuple(self._leaves.gradients)

    @property
    def _pulled_at_once(self) -> bool:
        return self._plan.batches.is_function and bool(self._leaves.tensors)

    def take(self, k: int, adjoints: StepAdjoints) -> None:
        """Take the adjoints of what goes into step k; steps come from last to first."""
        self._step_sizes[k] = adjoints.step_size
        images_bar, labels_bar = adjoints.images, adjoints.labels
        if not self._pulled_at_once:
            self.batches[k] = BatchGradient(images_bar, labels_bar)
            self._plan.batches.forget(k)
            return
        with torch.enable_grad():
            batch = self._plan.batches(k)
        # The same tensors as in the step after: one way through their graph for both.
        if self._latest is not None and all(
            a is b for a, b in zip(batch, self._latest, strict=True)
        ):
            images_bar = self._latest_bars[0] + images_bar
            labels_bar = None if labels_bar is None else self._latest_bars[1] + labels_bar
        else:
            self._pull_latest()
        self._latest, self._latest_bars = batch, (images_bar, labels_bar)

    def finish(self, steps: Steps, final: RunState, carry: Carry) -> None:
        """Pull what has not been pulled yet into the leaves.

        Args:
            steps: of the run.
            final: the state of the trained network.
            carry: the adjoints of the start of the window.
        """
        plan = self._plan
        if self._step_sizes:
            self.step_size = plan.step_size.gradient(self._step_sizes)
        self._pull_latest()
        pairs = self._of_listed_batches()
        pairs += self._of_outer_batches(steps, final)
        pairs += plan.step_size.pairs(self.step_size)
        for name, schedule in plan.hyperparameters.items():
            pairs += schedule.pairs(carry.hyperparameters[name])
        bars = {"constants": carry.constants}
        if plan.window.start == 0:
            bars |= {"parameters": carry.parameters, "statistics": carry.statistics}
        for role, tensors in self._start.items():
            pairs += [(t, bars[role][name]) for name, t in tensors.items() if role in bars]
        self._leaves.pull(pairs)

    def fill_with_nan(self, steps: Steps, final: RunState) -> Carry:
        """Take NaN for every adjoint of a run with a loss that is not finite."""
        plan = self._plan
        self.step_size = _nan_like(self.step_size)
        self._leaves.gradients = _nan_like(self._leaves.gradients)
        for k in plan.window:
            images, labels = plan.batches.values(k)
            soft = _nan_like(labels) if labels.is_floating_point() else None
            self.batches[k] = BatchGradient(_nan_like(images), soft)
        return _nan_like(
            Carry(
                parameters=final.parameters,
                optimizer=split_state(final.optimizer)[0],
                statistics=final.statistics,
                constants=steps.constants,
                hyperparameters={name: s.zeros() for name, s in plan.hyperparameters.items()},
            )
        )

    def check_used(self) -> None:
        """Check the leaves as `Leaves.check_used`; inputs outside of the window count as well."""
        batches = self._plan.batches

        def batch(k: int) -> Batch:
            with torch.enable_grad():
                return batches(k)

        start = [t for tensors in self._start.values() for t in tensors.values()]
        outer = itertools.chain(*self._plan.outer_batches)
        self._leaves.check_used(itertools.chain([start, outer], map(batch, range(batches.steps))))

    def _pull_latest(self) -> None:
        """Pull the adjoints of the batch that a function made last into the leaves."""
        if self._latest is not None:
            self._leaves.pull(list(zip(self._latest, self._latest_bars, strict=True)))
        self._latest = None

    def _of_listed_batches(self) -> list[tuple[Tensor, Tensor | None]]:
        """Return the images and labels of a list of batches, with their adjoints."""
        batches = self._plan.batches
        pairs: list[tuple[Tensor, Tensor | None]] = []
        if self._leaves.tensors and not batches.is_function:
            for k, bar in self.batches.items():
                images, labels = batches(k)
                pairs += [(images, bar.images), (labels, bar.labels)]
                batches.forget(k)
        return pairs

    def _of_outer_batches(
        self, steps: Steps, final: RunState
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Return the outer images and labels that were computed, with their adjoints."""
        pairs: list[tuple[Tensor, Tensor | None]] = []
        outer_batches = self._plan.outer_batches if self._leaves.tensors else []
        for index, pair in enumerate(outer_batches):
            named = zip(("images", "labels"), pair, strict=True)
            computed = {role: t for role, t in named if t.requires_grad}
            if computed:
                batch, noise, share = self._plan.outer(index)
                inputs = steps.inputs(final, batch, noise)
                bars = steps.problem.outer_batch(inputs, list(computed))
                bars = [None if bar is None else bar * share for bar in bars]
                pairs += zip(computed.values(), bars, strict=True)
        return pairs


def _nan_like(tree: Any) -> Any:
    return tree_map(lambda t: torch.full_like(t, float("nan")), tree)
