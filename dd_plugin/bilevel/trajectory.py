"""What is kept of the inner run for the backward sweep, and how it is brought back.

A run of M steps is cut into segments. The whole state is kept at the start of each; inside, only
the inner gradient g and the small things (statistics, counters) of every step. On the way back the
states of one segment are rebuilt by applying the optimizer to the kept gradients, which is
elementwise, cheap and exact to the bit. So one more step costs the bytes of one gradient, a third
of a state under Adam, and the sweep need not compute g again. The last segment is the first to be
swept, so its states are kept as they come: to rebuild them would take the same memory a little
later, after the judging. `Recompute` keeps the segment starts only and runs the steps of a segment
once more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from dd_plugin.bilevel.optimizers import Tensors
from dd_plugin.bilevel.step_values import GradientResult, RunState, leaves_of, tree_map_only


class StepRecord(NamedTuple):
    """A step as the backward sweep wants it: the state before it, its gradient, activations."""

    state: RunState
    gradients: Tensors
    activations: list[Tensor] | None = None


class Storage(Protocol):
    """Where a trajectory lies and what of it."""

    @property
    def keep_gradients(self) -> bool:
        """Whether the inner gradient of every step is kept, or each step is run again."""
        ...

    @property
    def on_host(self) -> bool:
        """Whether the trajectory lies in the memory of the host."""
        ...

    @property
    def activations(self) -> int:
        """Bytes for the activations of the last steps."""
        ...

    def segment(self, steps: int) -> int:
        """The length of a segment for a window of that many steps."""
        ...


@dataclass(frozen=True)
class Device:
    """Keep every step's gradient where the model is.

    Attributes:
        every: steps per segment. Longer segments keep fewer states, and rebuild more at a time.
        activations: bytes for the activations of the last steps of the window. Those steps need
            not be computed again on the way back. Compiled problems only.
    """

    every: int = 8
    activations: int = 0
    keep_gradients = True
    on_host = False

    def segment(self, steps: int) -> int:
        """``every``."""
        return _checked(self.every)


@dataclass(frozen=True)
class Host:
    """As `Device`, in the memory of the host: pinned, copied on a stream of its own on CUDA.

    Attributes:
        every: as for `Device`.
        activations: as for `Device`; they stay on the device.
    """

    every: int = 8
    activations: int = 0
    keep_gradients = True
    on_host = True

    def segment(self, steps: int) -> int:
        """``every``."""
        return _checked(self.every)


@dataclass(frozen=True)
class Recompute:
    """Keep one state every so many steps and run the steps between again.

    Attributes:
        every: steps per segment; by default the square root of the window's length, which keeps
            the fewest states.
        on_host: keep the states in the memory of the host.
    """

    every: int | None = None
    on_host: bool = False
    keep_gradients = False
    activations = 0

    def segment(self, steps: int) -> int:
        """``every``, or the square root of ``steps`` rounded up."""
        return _checked(math.isqrt(max(steps - 1, 0)) + 1 if self.every is None else self.every)


def _checked(every: int) -> int:
    if every < 1:
        raise ValueError(f"`every` must be at least 1, got {every}")
    return every


class Trajectory:
    """The record of one window.

    Args:
        storage: where and what.
        steps: the length of the window.
    """

    def __init__(self, storage: Storage, steps: int) -> None:
        self.storage = storage
        self.length = storage.segment(steps)
        self.steps = steps
        self._anchors: list[Any] = []
        self._inside: list[Any] = []
        # Whole states of the last segment, by index.
        self._states: dict[int, RunState] = {}
        self._activations: dict[int, list[Tensor]] = {}
        self._stream: Any = None

    def record(self, step: StepRecord) -> None:
        """Take note of the next step."""
        state, gradients, activations = step
        index = len(self._inside)
        if activations is not None:
            self._activations[index] = activations
        if index % self.length == 0:
            self._anchors.append(self._put(state))
        if self.storage.keep_gradients and not self.storage.on_host and self._is_last(index):
            self._states[index] = state
        kept: Any = None
        if self.storage.keep_gradients:
            kept = self._put((gradients, state.statistics, state.counters))
        self._inside.append(kept)

    def _is_last(self, index: int) -> bool:
        """Whether a step is in the last segment."""
        return index // self.length == (self.steps - 1) // self.length

    def segments(self) -> list[range]:
        """The segments of the window, first to last, as ranges of step indices."""
        return [
            range(start, min(start + self.length, self.steps))
            for start in range(0, self.steps, self.length)
        ]

    def rebuild(
        self,
        segment: range,
        update: Callable[[int, RunState, Tensors], tuple[Tensors, Any]],
        step: Callable[[int, RunState], GradientResult],
    ) -> list[StepRecord]:
        """The steps of a segment; its memory in the trajectory is given back.

        Args:
            segment: one of `segments`, from last to first.
            update: ``(index, state, gradients) -> (parameters, optimizer state)``.
            step: ``(index, state)`` to what the step gave in the forward run.
        """
        state: RunState = self._get(self._anchors.pop())
        records: list[StepRecord] = []
        for index in segment:
            kept = self._inside[index]
            self._inside[index] = None
            state = self._states.pop(index, state)
            is_followed = index != segment[-1] and index + 1 not in self._states
            if kept is not None:
                gradients, statistics, counters = self._get(kept)
                state = state._replace(statistics=statistics, counters=counters)
            else:
                gradients, statistics, counters, _ = step(index, state)
            records.append(StepRecord(state, gradients, self._activations.pop(index, None)))
            if is_followed:
                parameters, optimizer = update(index, state, gradients)
                state = RunState(
                    parameters=parameters,
                    optimizer=optimizer,
                    statistics=statistics,
                    counters=counters,
                )
        return records

    def backwards(
        self,
        update: Callable[[int, RunState, Tensors], tuple[Tensors, Any]],
        step: Callable[[int, RunState], GradientResult],
    ) -> Iterator[tuple[int, StepRecord]]:
        """The steps from last to first, with their indices; memory is given back on the way.

        Args:
            update: see `rebuild`.
            step: see `rebuild`.
        """
        for segment in reversed(self.segments()):
            records = self.rebuild(segment, update, step)
            for index in reversed(segment):
                yield index, records.pop()

    def nbytes(self) -> int:
        """The bytes held now, each storage counted once."""
        seen = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
            for t in leaves_of((self._anchors, self._inside, self._states))
            if isinstance(t, Tensor)
        }
        activations = itertools.chain(*self._activations.values())
        return sum(seen.values()) + sum(t.untyped_storage().nbytes() for t in activations)

    def _put(self, tree: Any) -> Any:
        if not self.storage.on_host:
            return tree
        return tree_map_only(Tensor, self._to_host, tree)

    def _get(self, tree: Any) -> Any:
        if not self.storage.on_host:
            return tree
        return tree_map_only(_OnHost, self._from_host, tree)

    def _to_host(self, t: Tensor) -> Any:
        if t.device.type != "cuda":
            return _OnHost(t.to("cpu", copy=True), t.device)
        if self._stream is None:
            self._stream = torch.cuda.Stream(t.device)
        out = torch.empty_like(t, device="cpu", pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream(t.device))
        with torch.cuda.stream(self._stream):
            out.copy_(t, non_blocking=True)
        t.record_stream(self._stream)
        return _OnHost(out, t.device)

    def _from_host(self, kept: _OnHost) -> Tensor:
        if kept.device.type != "cuda":
            return kept.tensor.to(kept.device)
        # The copy to the host may still be under way on its stream.
        current = torch.cuda.current_stream(kept.device)
        current.wait_stream(self._stream)
        return kept.tensor.to(kept.device, non_blocking=True)


class ForwardRun(NamedTuple):
    """An inner training that was run.

    Attributes:
        final: the state after the last step.
        losses: the inner loss of every step.
        trajectory: the record of the window.
        trajectory_bytes: what it held at the end of the run.
    """

    final: RunState
    losses: list[Tensor]
    trajectory: Trajectory
    trajectory_bytes: int


@dataclass(frozen=True, eq=False)
class _OnHost:
    """A tensor in host memory, and where it came from."""

    tensor: Tensor
    device: torch.device
