"""The start and the batches of a run, checked against the model before anything is computed.

Used by `plan`. `batches` says what images and labels look like whatever the model is; here they
meet it: its dtype and device, its classes, and whether it runs on such images at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dd_plugin.bilevel.batches import Batch, Batches, check_batch
from dd_plugin.bilevel.foreign_models.draws import Draws
from dd_plugin.bilevel.messages import describe
from dd_plugin.bilevel.optimizers import Tensors
from dd_plugin.bilevel.problem import BilevelProblem, Loss, cross_entropy
from dd_plugin.bilevel.step_values import RunState


def check_place(batch: Batch, like: Tensor, what: str) -> None:
    """Check dtype and device of a batch against those of the model's weights.

    Raises:
        TypeError: images of another dtype.
        ValueError: images or labels on another device.
    """
    images, labels = batch
    for name, t in (("images", images), ("labels", labels)):
        if t.device != like.device:
            raise ValueError(
                f"the {name} of {what} must be on the device of the model's weights, "
                f"{like.device}, got {t.device}; move one of them with `.to(...)`"
            )
    if images.dtype != like.dtype:
        raise TypeError(
            f"the images of {what} must have the dtype of the model's weights, {like.dtype}, got "
            f"{images.dtype}; convert one of them (to compute in lower precision, keep both in "
            "float32 and pass `autocast=`)"
        )


class LabelChecks:
    """Checks labels of a classification against the model's logits ``(N, classes)``.

    The values of all batches are read at once: a GPU is waited for when one is read.
    """

    def __init__(self) -> None:
        self._bounds: list[Tensor] = []
        self._of: list[tuple[str, int]] = []
        # The same labels in every step are read once. They are held, so that no others take their
        # place in memory.
        self._seen: dict[tuple[Any, ...], Tensor] = {}

    def add(self, labels: Tensor, logits: Tensor, what: str, ignored: int | None = None) -> None:
        """Check the shape of labels, and note their values for `finish`.

        Args:
            labels: of a batch.
            logits: only their shape matters; if they have other than two dimensions nothing is
                checked.
            what: the name of the batch in messages.
            ignored: a class index that the loss leaves out.

        Raises:
            ValueError: labels of another shape.
        """
        if logits.dim() != 2:
            return
        classes = logits.shape[1]
        if labels.is_floating_point():
            if labels.dim() != 2 or labels.shape[1] != classes:
                raise ValueError(
                    f"soft labels of {what} must have {classes} columns, one per class of the "
                    f"model, got shape {tuple(labels.shape)}; class indices must be int64"
                )
            return
        if labels.dim() != 1:
            raise ValueError(
                f"the class indices of {what} must be of shape (N,), got {tuple(labels.shape)}; "
                "pass probabilities as floating point"
            )
        key = (labels.data_ptr(), labels.shape, labels.stride(), classes, ignored)
        if len(labels) == 0 or key in self._seen:
            return
        self._seen[key] = labels
        # What is left out counts as class 0, which every model has.
        counted = labels if ignored is None else torch.where(labels == ignored, 0, labels)
        self._bounds.append(torch.stack(counted.aminmax()))
        self._of.append((what, classes))

    def finish(self) -> None:
        """Read what has been added.

        Raises:
            ValueError: labels that are no classes of the model.
        """
        if not self._bounds:
            return
        read = torch.stack(self._bounds).tolist()
        for (low, high), (what, classes) in zip(read, self._of, strict=True):
            if low < 0 or high >= classes:
                raise ValueError(
                    f"the labels of {what} must lie in 0 .. {classes - 1}, since the model has "
                    f"{classes} outputs, got {low} .. {high}; give the model as many outputs as "
                    "there are classes"
                )
        for noted in (self._bounds, self._of, self._seen):
            noted.clear()


class CheckedBatches(Batches):
    """`Batches` that are checked against a problem's model when they are asked for first."""

    def __init__(self, problem: BilevelProblem, batches: Any, steps: int | None, seed: int) -> None:
        super().__init__(batches, steps, seed)
        self._problem = problem
        self._like = next(iter(problem.model.parameters.values()))
        self._checked: set[int] = set()
        self._labels = LabelChecks()

    def values(self, step: int) -> Batch:
        """Return (images, labels) of a step, detached."""
        batch = self._looked_at(step)
        self._labels.finish()
        return batch

    def _looked_at(self, step: int) -> Batch:
        """Return the same, with the values of the labels noted, not read."""
        batch = super().values(step)
        if step not in self._checked:
            what = f"batch {step}"
            check_place(batch, self._like, what)
            logits, _ = self._probe(batch[0], what)
            self._look_at_labels(batch[1], logits, self._problem.inner_loss, what)
            self._checked.add(step)
        return batch

    def check(self, outer_batches: Sequence[Batch]) -> None:
        """Check every batch of a list, the first of others, and the outer batches."""
        for step in range(1 if self.made_on_request else self.steps):
            self._looked_at(step)
        logits, _ = next(iter(self._problem.probes.values()))
        for batch in outer_batches:
            check_place(batch, self._like, "the outer batch")
            self._look_at_labels(batch[1], logits, self._problem.outer_loss, "the outer batch")
        self._labels.finish()

    def _look_at_labels(self, labels: Tensor, logits: Tensor, loss: Loss, what: str) -> None:
        """Note labels to be checked, if the loss is one of those that are known to classify."""
        if loss is cross_entropy:
            self._labels.add(labels, logits, what)
        elif loss is F.cross_entropy or isinstance(loss, nn.CrossEntropyLoss):
            self._labels.add(labels, logits, what, getattr(loss, "ignore_index", -100))

    def _probe(self, images: Tensor, what: str) -> tuple[Tensor, Any]:
        """Return logits, without data, and draws of a training forward on such images."""
        problem = self._problem
        probes, key = problem.probes, problem.probe_key(images)
        if key not in probes:
            draws = Draws(0)
            try:
                logits = problem.model.probe(images, draws)
            except (RuntimeError, ValueError, IndexError) as error:
                raise ValueError(
                    f"the model does not run in train mode on the images of {what}, "
                    f"{describe(images)}: {error}"
                ) from error
            probes[key] = (torch.empty_like(logits, device="meta"), draws.specs)
        return probes[key]


def check_outer_batches(outer_batch: Any) -> list[Batch]:
    """Return one outer batch, or a sequence of them, as a list."""
    several = isinstance(outer_batch, Sequence) and not (
        outer_batch and isinstance(outer_batch[0], Tensor)
    )
    parts = outer_batch if several else [outer_batch]
    return [check_batch(part, "the outer batch") for part in parts]


def starting_state(
    problem: BilevelProblem, initial: RunState | None, start: Mapping[str, Tensors | None]
) -> tuple[RunState, Tensors]:
    """Return the state to begin from, and what the run holds constant.

    Args:
        problem: has what the others leave out.
        initial: see `hypergradient`.
        start: ``parameters``, ``statistics`` and ``constants`` of `hypergradient`.
    """
    if initial is not None:
        problem.check_state(initial)
        initial = _in_order_of(problem, initial)
    base = problem.model if initial is None else initial
    theta = _override(base.parameters, start["parameters"], "parameters")
    s = _override(base.statistics, start["statistics"], "statistics")
    constants = _override(problem.model.constants, start["constants"], "constants")
    optimizer_state = problem.optimizer.init(theta) if initial is None else initial.optimizer
    return RunState(theta, optimizer_state, s, dict(base.counters)), constants


def _in_order_of(problem: BilevelProblem, state: RunState) -> RunState:
    """Return a state with its tensors in the order of the model's: traced steps go by places."""
    model = problem.model
    return RunState(
        parameters=_like(state.parameters, model.parameters),
        optimizer=_like(state.optimizer, problem.optimizer_structure()),
        statistics=_like(state.statistics, model.statistics),
        counters=_like(state.counters, model.counters),
    )


def _like(tree: Any, other: Any) -> Any:
    """Return a tree of dictionaries in the order of another one."""
    if not isinstance(other, Mapping):
        return tree
    return {name: _like(tree[name], part) for name, part in other.items()}


def _override(base: Tensors, tensors: Tensors | None, what: str) -> Tensors:
    """Return ``base`` with some of its tensors replaced, detached."""
    if tensors is None:
        return dict(base)
    if not isinstance(tensors, Mapping):
        raise TypeError(f"`{what}` must be a mapping from name to tensor, got {describe(tensors)}")
    for name, t in tensors.items():
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
    return {name: tensors.get(name, t).detach() for name, t in base.items()}
