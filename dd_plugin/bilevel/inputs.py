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
from typing import Any, NoReturn

import torch
from torch import Tensor

from dd_plugin.seeds import InnerPurpose, mix, seed_global_generators

Batch = tuple[Tensor, Tensor]
# What stands between a call of the engine and the line that it is about.
INSIDE = (str(Path(__file__).parent), str(Path(torch.__file__).parent))


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


class Batches:
    """The batch of each step, from a sequence or a function of the step.

    What is made on request (by a function, or by a sequence that is no list) is kept for the way
    back. Where its graph is wanted as well, that would cost the memory of all graphs together; such
    a batch is made again instead, with the same state of torch's, Python's and NumPy's generators,
    so that an augmentation inside repeats itself, and compared with the first.
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
        self._made_on_request = self._function is not None or not isinstance(batches, (list, tuple))
        self._latest: tuple[int, Batch] | None = None
        self._kept: dict[int, Batch] = {}
        self._digests: dict[int, list[Tensor]] = {}
        self._compared: list[tuple[int, bool, Tensor]] = []
        self._window, self._with_graph = range(0), False

    @property
    def is_function(self) -> bool:
        """Whether `batches` is a function of the step."""
        return self._function is not None

    @property
    def made_on_request(self) -> bool:
        """Whether batches come from a function, or from a sequence that may make them."""
        return self._made_on_request

    def expect_return(self, window: range, with_graph: bool) -> None:
        """Say which steps are going to be asked for again, and whether with their graphs."""
        self._window, self._with_graph = window, with_graph

    def forget(self, step: int) -> None:
        """Let go of what was kept of a step."""
        self._kept.pop(step, None)

    def __call__(self, step: int) -> Batch:
        """(images, labels) of a step, with whatever graph the caller gave them."""
        if not self._made_on_request:
            return check_batch(self._sequence[step], f"batch {step}")
        known = self._latest is not None and self._latest[0] == step
        batch = self._latest[1] if self._latest is not None and known else self._kept.get(step)
        again = batch is None
        if batch is None:
            seed_global_generators(mix(self.seed, InnerPurpose.MADE_BATCH, step))
            made = self._sequence[step] if self._function is None else self._function(step)
            batch = check_batch(made, f"batch {step}")
        if not known:
            self._compare(step, batch, again)
        if step in self._window and not self._with_graph:
            self._kept[step] = batch
        self._latest = (step, batch)
        return batch

    def values(self, step: int) -> Batch:
        """The same, detached."""
        # Without a graph the first time, and with it on the way back.
        graph = self._with_graph and step in self._digests
        with torch.set_grad_enabled(graph):
            images, labels = self(step)
        if step in self._window and step not in self._digests and self._made_on_request:
            self._digests[step] = _digests((images, labels))
            if self._with_graph:
                self._latest = None
        return images.detach(), labels.detach()

    def _compare(self, step: int, batch: Batch, again: bool) -> None:
        """Compare a batch with what it was when it was asked for first; see `check_repeats`.

        Raises:
            ValueError: it has another shape.
        """
        if step not in self._digests:
            return
        pairs = list(zip(_digests(batch), self._digests[step], strict=True))
        if any(now.shape != before.shape for now, before in pairs):
            self._refuse(step, again)
        alike = torch.stack([_alike(now, before) for now, before in pairs]).all()
        self._compared.append((step, again, alike))

    def check_repeats(self) -> None:
        """See that batches which were asked for twice were the same both times.

        Once at the end of a run, since a GPU has to be waited for, and before a verification.

        Raises:
            ValueError: one was not.
        """
        compared, self._compared = self._compared, []
        if compared and not bool(torch.stack([alike for _, _, alike in compared]).all()):
            step, again = next((step, again) for step, again, alike in compared if not alike)
            self._refuse(step, again)

    @staticmethod
    def _refuse(step: int, again: bool) -> NoReturn:
        if again:
            raise ValueError(
                f"`batches` must give the same batch for a step each time, got another one for "
                f"step {step} on the way back; draw from torch's, Python's or NumPy's global "
                "generators, which the engine seeds for each step, or make the batches beforehand "
                "and pass a list"
            )
        raise ValueError(
            f"the batch of step {step} must stay as it was given, but its values have changed "
            "since; return new tensors instead of writing into the same ones"
        )


def _digests(batch: Batch) -> list[Tensor]:
    """Per example of images and labels, a weighted sum of its values and the sum of their sizes."""
    found = []
    for t in batch:
        rows = t.detach().reshape(len(t), -1)
        wide = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
        weights = torch.arange(rows.shape[1], device=t.device, dtype=wide.dtype).cos() / 2 + 1
        roundings = 64 * torch.finfo(t.dtype).eps if t.is_floating_point() else 0.0
        found.append(torch.stack([(wide * weights).sum(1), roundings * wide.abs().sum(1)]))
    return found


def _alike(now: Tensor, before: Tensor) -> Tensor:
    """Whether two digests differ by no more than rounding, 0-d."""
    same = (now[0] - before[0]).abs() <= before[1]
    return (same | ~before[0].isfinite()).all()


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

    def zeros(self) -> Any:
        """Zeros, shaped as the value was given."""
        zeros = {group: torch.zeros_like(t) for group, t in self._values.items()}
        return zeros if self.grouped else zeros[""]

    def gradient(self, bars: Mapping[int, Any]) -> Any:
        """The adjoint of the whole value, shaped as it was given.

        Args:
            bars: the adjoints of the values of steps, by step; zero for those left out.
        """
        total = self.zeros()
        whole = self._by_group(total)
        for step, bar in bars.items():
            for group, part in self._by_group(bar).items():
                if whole[group].dim() == 0:
                    whole[group] += part
                else:
                    whole[group][step] += part
        return total

    def pairs(self, gradient: Any) -> list[tuple[Tensor, Tensor]]:
        """The caller's tensors that have a graph or require a gradient, with their adjoints."""
        bars = self._by_group(gradient)
        return [
            (item, bars[group].to(item.dtype).to(item.device))
            for group, item in self.given.items()
            if isinstance(item, Tensor) and item.requires_grad
        ]

    def _by_group(self, value: Any) -> dict[str, Any]:
        return value if self.grouped else {"": value}


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
        self._unused = set(range(len(self.tensors)))

    def check_used(self, others: Iterable[Iterable[Tensor]]) -> None:
        """Check that something was computed from every leaf.

        Args:
            others: what else the run was given, in groups, asked for as long as a leaf is missing.

        Raises:
            ValueError: a leaf that nothing was computed from.
        """
        if not self._unused:
            return
        for tensors in others:
            graphs = [t for t in tensors if t.requires_grad]
            if graphs:
                zeros = [torch.zeros_like(t) for t in graphs]
                self._note(self._gradients(graphs, zeros))
            if not self._unused:
                return
        index = min(self._unused)
        raise ValueError(
            f"`leaves[{index}]`, {describe(self.tensors[index])}, must be what an input of the run "
            "was computed from, but none depends on it; compute the batches, the step sizes or "
            "whatever it stands for from it (not from a copy made with `.detach()` or under "
            "no_grad), or pass allow_unused=True for a gradient of zeros"
        )

    def _gradients(self, tensors: list[Tensor], bars: list[Tensor]) -> Sequence[Tensor | None]:
        return torch.autograd.grad(
            tensors, self.tensors, bars, allow_unused=True, retain_graph=True
        )

    def _note(self, found: Sequence[Tensor | None]) -> None:
        self._unused -= {index for index, part in enumerate(found) if part is not None}

    def pull(self, pairs: Sequence[tuple[Tensor, Tensor | None]]) -> None:
        """Add what (made tensor, adjoint) pairs give for the leaves; their graphs are kept."""
        wanted = [(t, bar) for t, bar in pairs if bar is not None and t.requires_grad]
        if not wanted or not self.tensors:
            return
        found = self._gradients([t for t, _ in wanted], [bar for _, bar in wanted])
        self._note(found)
        for total, part in zip(self.gradients, found, strict=True):
            if part is not None:
                total += part


def level_of_caller() -> int:
    """The ``stacklevel`` with which a warning of who asks points at the call of the engine."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(INSIDE):
        level, frame = level + 1, frame.f_back
    return level
