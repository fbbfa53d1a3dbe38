"""Windows: the stretch of the inner run that the hypergradient goes through.

A window says, for a run of ``steps`` inner steps, where differentiation starts and where the run
stops and the outer loss is taken. Steps before the window are plain training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


class Window(Protocol):
    """A stretch of the inner run: anything with `bounds`."""

    def bounds(self, steps: int, seed: int) -> tuple[int, int]:
        """Return the first differentiated step, and the step at which the run stops (exclusive)."""
        ...


def check_length(length: int, steps: int) -> None:
    """Check that a window fits into a run.

    Raises:
        TypeError: its length is no integer.
        ValueError: it is longer than the run, or empty.
    """
    if not isinstance(length, int):
        raise TypeError(f"the length of a window must be an integer, got {length!r}")
    if length < 1:
        raise ValueError(f"the window must hold at least one step, got {length}")
    if length > steps:
        raise ValueError(
            f"the window must not be longer than the unroll, got {length} of {steps} steps; "
            "shorten the window or give more batches"
        )


@dataclass(frozen=True)
class Full:
    """Every step: exact backpropagation through the whole run."""

    def bounds(self, steps: int, seed: int) -> tuple[int, int]:
        """Return ``(0, steps)``."""
        check_length(steps, steps)
        return 0, steps


@dataclass(frozen=True)
class Last:
    """The last ``length`` steps of the run: truncated backpropagation."""

    length: int

    def bounds(self, steps: int, seed: int) -> tuple[int, int]:
        """Return ``(steps - length, steps)``."""
        check_length(self.length, steps)
        return steps - self.length, steps


@dataclass(frozen=True)
class Random:
    """A stretch of ``length`` steps that ends at a random step (RaT-BPTT, arXiv 2311.07025).

    The end is uniform over ``length .. steps``; the run stops there. With the same seed it is the
    same stretch.
    """

    length: int

    def bounds(self, steps: int, seed: int) -> tuple[int, int]:
        """Return ``(end - length, end)`` with the end drawn from ``seed``."""
        check_length(self.length, steps)
        generator = torch.Generator().manual_seed(seed)
        end = self.length + int(torch.randint(steps - self.length + 1, (), generator=generator))
        return end - self.length, end
