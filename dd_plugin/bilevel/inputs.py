"""The inputs of an inner run: batches, step sizes and hyperparameters, checked and step by step.

Used by `hypergradient`. It accepts what is convenient to write (a number, a list, a function of
the step) and gives the engine one detached tensor per step; on the way back it takes the adjoints
and pulls them into the tensors from which the caller made the inputs.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dd_plugin.bilevel.randomness import mix, seed_global_generators

Batch = tuple[Tensor, Tensor]
# What stands between a call of the engine and the line that it is about.
_INSIDE = (str(Path(__file__).parent), str(Path(torch.__file__).parent))


def describe(value: Any) -> str:
    """What ``value`` is, for messages: its type, and of tensors shape and dtype."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
    if isinstance(value, (tuple, list)) and len(value) <= 3:
        return f"({', '.join(describe(v) for v in value)})"
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def integer(value: Any, what: str) -> int:
    """``value`` as an int.

    Raises:
        TypeError: it is none.
    """
    try:
        return operator.index(value)
    except TypeError as error:
        raise TypeError(f"`{what}` must be an integer, got {describe(value)}") from error


def check_batch(batch: Any, what: str) -> Batch:
    """``batch`` as (images, labels), integer labels as int64.

    Raises:
        TypeError: not a pair of tensors, or of dtypes that are none of images and labels.
        ValueError: of different lengths, or empty.
    """
    pair = tuple(batch) if isinstance(batch, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(t, Tensor) for t in pair):
        raise TypeError(
            f"{what} must be a pair (images, labels) of tensors, got {describe(batch)}; pass "
            "[(images, labels), ...] for several batches, [(images, labels)] * steps for the same "
            "one in every step"
        )
    images, labels = pair
    if not images.is_floating_point():
        raise TypeError(
            f"the images of {what} must be floating point, got {images.dtype}; "
            "convert and normalise them first"
        )
    if labels.dtype not in (torch.int64, torch.int32, torch.uint8) and (
        not labels.is_floating_point()
    ):
        raise TypeError(
            f"the labels of {what} must be class indices (int64) or probabilities (floating "
            f"point), got {labels.dtype}; convert them with `.long()` or `.float()`"
        )
    if images.dim() == 0 or labels.dim() == 0 or len(images) != len(labels) or len(images) == 0:
        raise ValueError(
            f"{what} must hold as many labels as images and at least one, got images of shape "
            f"{tuple(images.shape)} and labels of shape {tuple(labels.shape)}"
        )
    return images, labels if labels.is_floating_point() else labels.long()


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


def check_labels(labels: Tensor, logits: Tensor, what: str, ignored: int | None = None) -> None:
    """Check labels of a classification against the model's logits ``(N, classes)``.

    Args:
        labels: of a batch.
        logits: only their shape matters; if they have other than two dimensions nothing is checked.
        what: the name of the batch in messages.
        ignored: a class index that the loss leaves out.

    Raises:
        ValueError: labels that are no classes of the model.
    """
    if logits.dim() != 2:
        return
    classes = logits.shape[1]
    if labels.is_floating_point():
        if labels.dim() != 2 or labels.shape[1] != classes:
            raise ValueError(
                f"soft labels of {what} must have {classes} columns, one per class of the model, "
                f"got shape {tuple(labels.shape)}; class indices must be int64"
            )
        return
    if labels.dim() != 1:
        raise ValueError(
            f"the class indices of {what} must be of shape (N,), got {tuple(labels.shape)}; "
            "pass probabilities as floating point"
        )
    counted = labels if ignored is None else labels[labels != ignored]
    if len(counted) == 0:
        return
    low, high = (int(bound) for bound in counted.aminmax())
    if low < 0 or high >= classes:
        raise ValueError(
            f"the labels of {what} must lie in 0 .. {classes - 1}, since the model has {classes} "
            f"outputs, got {low} .. {high}; give the model as many outputs as there are classes"
        )


class Batches:
    """The batch of each step, from a sequence or a function of the step.

    A function is called once forward and, when its gradient is wanted, once more backward, each
    time with the same state of torch's, Python's and NumPy's generators, so that an augmentation
    inside repeats itself.
    """

    def __init__(
        self,
        batches: Sequence[Batch] | Callable[[int], Batch],
        steps: int | None,
        seed: int,
    ) -> None:
        self._function: Callable[[int], Any] | None = None
        self._sequence: Sequence[Any] = ()
        self.seed = seed
        steps = None if steps is None else integer(steps, "steps")
        if callable(batches):
            if steps is None:
                raise ValueError("`steps` must be given when `batches` is a function")
            self._function = batches
            self.steps = steps
        elif not hasattr(batches, "__len__") or not hasattr(batches, "__getitem__"):
            raise TypeError(
                "`batches` must be a sequence of pairs (images, labels), one per step, or a "
                f"function of the step, got {describe(batches)}; make a list of it"
            )
        else:
            self._sequence = batches
            self.steps = len(batches) if steps is None else steps
            if self.steps > len(batches):
                raise ValueError(
                    f"`batches` must hold one batch per step, got {len(batches)} for "
                    f"{self.steps} steps; repeat them, or pass a function of the step"
                )
        if self.steps < 1:
            raise ValueError(f"the run must have at least one step, got {self.steps}")

    @property
    def is_function(self) -> bool:
        """Whether batches are made anew on each request."""
        return self._function is not None

    def __call__(self, step: int) -> Batch:
        """(images, labels) of a step, with whatever graph the caller gave them."""
        if self._function is None:
            return check_batch(self._sequence[step], f"batch {step}")
        seed_global_generators(mix(self.seed, 1 << 42, step))
        return check_batch(self._function(step), f"batch {step}")

    def values(self, step: int) -> Batch:
        """The same, detached."""
        with torch.no_grad():
            images, labels = self(step)
        return images.detach(), labels.detach()


class Schedule:
    """A value, or a value per group, that may differ from step to step.

    Args:
        value: a number, a 0-d tensor, a tensor or sequence ``(steps,)``, or a mapping from group
            to these.
        steps: the length of the run.
        like: a tensor with the dtype and device that the values get.
        what: its name in messages.
        per_step: whether tensors ``(steps,)`` are allowed.
    """

    def __init__(
        self, value: Any, steps: int, like: Tensor, what: str, per_step: bool = True
    ) -> None:
        self.grouped = isinstance(value, Mapping)
        items = dict(value) if self.grouped else {"": value}
        self.given: dict[str, Any] = items
        self._values: dict[str, Tensor] = {}
        for group, item in list(items.items()):
            if isinstance(item, (list, tuple)) and any(isinstance(v, Tensor) for v in item):
                # Not `as_tensor`, which would drop the graphs of the entries.
                with torch.enable_grad():
                    item = torch.stack([self._tensor(v, like, what) for v in item])
                items[group] = item
            t = self._tensor(item, like, what).detach()
            allowed = [(), (steps,)] if per_step else [()]
            if tuple(t.shape) not in allowed:
                raise ValueError(
                    f"`{what}` must be a number, a 0-d tensor"
                    + (f" or a tensor of shape ({steps},), one per step" if per_step else "")
                    + f", got shape {tuple(t.shape)}"
                )
            self._values[group] = t.clone()
        self._bars = {group: torch.zeros_like(t) for group, t in self._values.items()}

    @staticmethod
    def _tensor(item: Any, like: Tensor, what: str) -> Tensor:
        try:
            if isinstance(item, Tensor) and item.is_complex():
                raise TypeError("complex")
            return torch.as_tensor(item, dtype=like.dtype, device=like.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"`{what}` must be a number, a tensor, a sequence of numbers, or a mapping from "
                f"parameter group to these, got {describe(item)}"
            ) from error

    def at(self, step: int) -> Any:
        """The value of a step: a 0-d tensor, or a dict of these."""
        found = {g: t if t.dim() == 0 else t[step].clone() for g, t in self._values.items()}
        return found if self.grouped else found[""]

    def add(self, step: int, bar: Any) -> None:
        """Add the adjoint of the value of a step."""
        for group, part in (bar if self.grouped else {"": bar}).items():
            if self._bars[group].dim() == 0:
                self._bars[group] += part
            else:
                self._bars[group][step] += part

    def gradient(self) -> Any:
        """The adjoint of the whole value, shaped as it was given."""
        return dict(self._bars) if self.grouped else self._bars[""]

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """The caller's tensors that have a graph or require a gradient, with their adjoints."""
        return [
            (item, self._bars[group].to(item.dtype).to(item.device))
            for group, item in self.given.items()
            if isinstance(item, Tensor) and item.requires_grad
        ]


class Leaves:
    """Tensors from which the caller made the inputs, and their gradients so far."""

    def __init__(self, leaves: Any) -> None:
        if isinstance(leaves, Tensor) or not isinstance(leaves, Iterable):
            raise TypeError(
                f"`leaves` must be a list of tensors, got {describe(leaves)}; put it into a list"
            )
        self.tensors = list(leaves)
        for index, leaf in enumerate(self.tensors):
            if not isinstance(leaf, Tensor) or not leaf.requires_grad:
                raise ValueError(
                    f"`leaves[{index}]` must be a tensor that requires a gradient; "
                    "call `requires_grad_()` on it before the batches are made from it"
                )
        self.gradients = [torch.zeros_like(t, requires_grad=False) for t in self.tensors]

    def pull(self, pairs: Sequence[tuple[Tensor, Tensor | None]]) -> None:
        """Add what (made tensor, adjoint) pairs give for the leaves; their graphs are kept."""
        wanted = [(t, bar) for t, bar in pairs if bar is not None and t.requires_grad]
        if not wanted or not self.tensors:
            return
        found = torch.autograd.grad(
            [t for t, _ in wanted],
            self.tensors,
            [bar for _, bar in wanted],
            allow_unused=True,
            retain_graph=True,
        )
        for total, part in zip(self.gradients, found, strict=True):
            if part is not None:
                total += part


def level_of_caller() -> int:
    """The ``stacklevel`` with which a warning of who asks points at the call of the engine."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        level, frame = level + 1, frame.f_back
    return level
