"""The batches of an inner run: what a batch is, and one for every step.

Used by `checks`, where batches meet the model. `Batches` accepts what is convenient to write, a
list or a function of the step, and gives the engine one batch per step, the same one on the way
back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from dd_plugin.bilevel.messages import describe, integer
from dd_plugin.seeds import InnerPurpose, mix, seed_global_generators

Batch = tuple[Tensor, Tensor]


def check_batch(batch: Any, what: str) -> Batch:
    """Return a batch as (images, labels), integer labels as int64.

    Raises:
        TypeError: not a pair of tensors, or of dtypes that images and labels cannot have.
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
            "convert and normalize them first"
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
                raise ValueError("`steps` must be set when `batches` is a function, got None")
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
        """Return whether `batches` is a function of the step."""
        return self._function is not None

    @property
    def made_on_request(self) -> bool:
        """Return whether batches come from a function, or from a sequence that may make them."""
        return self._made_on_request

    def expect_return(self, window: range, with_graph: bool) -> None:
        """Say which steps are going to be asked for again, and whether with their graphs."""
        self._window, self._with_graph = window, with_graph

    def forget(self, step: int) -> None:
        """Let go of what was kept of a step."""
        self._kept.pop(step, None)

    def __call__(self, step: int) -> Batch:
        """Return (images, labels) of a step, with the graph that the caller gave them."""
        if not self._made_on_request:
            return check_batch(self._sequence[step], f"batch {step}")
        known = self._latest is not None and self._latest[0] == step
        batch = self._latest[1] if self._latest is not None and known else self._kept.get(step)
        again = batch is None
        if batch is None:
            seed_global_generators(mix(self.seed, InnerPurpose.MADE_BATCH, step))
            value = self._sequence[step] if self._function is None else self._function(step)
            batch = check_batch(value, f"batch {step}")
        if not known:
            self._compare(step, batch, again)
        if step in self._window and not self._with_graph:
            self._kept[step] = batch
        self._latest = (step, batch)
        return batch

    def values(self, step: int) -> Batch:
        """Return the same, detached."""
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

    def repeats(self) -> list[Tensor]:
        """Return for every batch that was asked for twice whether it was the same, 0-d each."""
        return [alike for _, _, alike in self._compared]

    def check_repeats(self, read: Sequence[Any]) -> None:
        """Check that batches which were asked for twice were the same both times.

        Args:
            read: the values of `repeats`, which are forgotten. They are read at the end of a run,
                with all else that is read then, and before a verification.

        Raises:
            ValueError: one was not.
        """
        compared, self._compared = self._compared, []
        for (step, again, _), alike in zip(compared, read, strict=True):
            if not alike:
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
            f"the batch of step {step} must stay as it is during the run, but its values have "
            "changed; return new tensors instead of writing into the same ones"
        )


def _digests(batch: Batch) -> list[Tensor]:
    """Return for each image and label a weighted sum of its values, and the sum of their sizes."""
    digests = []
    for t in batch:
        rows = t.detach().reshape(len(t), -1)
        wide = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
        weights = torch.arange(rows.shape[1], device=t.device, dtype=wide.dtype).cos() / 2 + 1
        roundings = 64 * torch.finfo(t.dtype).eps if t.is_floating_point() else 0.0
        digests.append(torch.stack([(wide * weights).sum(1), roundings * wide.abs().sum(1)]))
    return digests


def _alike(now: Tensor, before: Tensor) -> Tensor:
    """Return whether two digests differ by no more than rounding, 0-d."""
    same = (now[0] - before[0]).abs() <= before[1]
    return (same | ~before[0].isfinite()).all()
