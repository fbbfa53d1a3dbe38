"""`Adaptive`: a window whose place follows from how fast training moves.

Beside `windows`. The idea is that of AT-BPTT (Li et al., arXiv 2510.04838), which has three phases
of the outer run: first windows where inner training moves fast, then anywhere, then where it moves
slowly. AT-BPTT trains a network once more per outer step to measure gradients, and varies the
length of the window too. Here the inner losses of the runs themselves are the measure, which cost
nothing, and the length stays, so that compiled and recorded runs serve all places.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Protocol, Self, runtime_checkable

import torch

from dd_plugin.bilevel.windows import Window, check_length

PHASES: Final = ("early", "middle", "late")

# Shares of the old value in a moving mean: of inner losses, and twice of the outer loss.
_DECAY, _FAST, _SLOW = 0.9, 0.9, 0.98
# The share of the mean weight that each place has in any case, so that it is seen now and then.
_FLOOR = 0.1


@runtime_checkable
class AdaptingWindow(Window, Protocol):
    """A window that changes with what was seen, as a value: a new one for each outer step."""

    def after(self, inner_losses: Sequence[float], outer_loss: float) -> Self:
        """Return the window after an outer step.

        Args:
            inner_losses: of every inner step that was run, from the first one.
            outer_loss: where the run stopped.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what was seen, as plain values that JSON can hold."""
        ...

    def with_state(self, state: Mapping[str, Any]) -> Self:
        """Return the window that has seen what `state_dict` says; nothing if that is empty."""
        ...


@dataclass(frozen=True)
class Seen:
    """What an adaptive window has seen.

    Attributes:
        losses: the moving mean of the inner loss at each step, as far as runs have gone.
        phase: 0 early, 1 middle, 2 late.
        fast: the moving mean of the outer loss over some ten outer steps; None before the first.
        slow: over some fifty.
        calm: outer steps in a row with little progress.
    """

    losses: tuple[float, ...] = ()
    phase: int = 0
    fast: float | None = None
    slow: float | None = None
    calm: int = 0


@dataclass(frozen=True)
class Adaptive:
    """A stretch of ``length`` steps, placed by how fast the inner loss changes (arXiv 2510.04838).

    In the early phase of the outer run a place is drawn in proportion to the mean change of the
    inner loss over the window, in the middle phase all places are alike, and in the late phase
    those are likely where the loss changes least. A phase ends when the outer loss has fallen by
    less than ``threshold`` for ``patience`` outer steps in a row.

    Attributes:
        length: steps of the window.
        threshold: the progress below which an outer step is calm: the share by which a fast moving
            mean of the outer loss is below a slow one.
        patience: calm outer steps in a row that end a phase.
        seen: what was seen so far; all that a place depends on, beside the seed.
    """

    length: int
    threshold: float = 0.01
    patience: int = 50
    seen: Seen = field(default_factory=Seen)

    def bounds(self, steps: int, seed: int) -> tuple[int, int]:
        """Return ``(start, start + length)`` with the start drawn from ``seed``."""
        check_length(self.length, steps)
        totals = list(itertools.accumulate(self.weights(steps)))
        generator = torch.Generator().manual_seed(seed)
        drawn = float(torch.rand((), dtype=torch.float64, generator=generator)) * totals[-1]
        start = next((k for k, total in enumerate(totals) if drawn < total), len(totals) - 1)
        return start, start + self.length

    def weights(self, steps: int) -> list[float]:
        """Return how likely each start is, up to a factor: positive numbers."""
        places = steps - self.length + 1
        if self.phase == "middle":
            return [1.0] * places
        speeds = self._speeds(places)
        if self.phase == "late":
            ends = max(speeds) + min(speeds)
            speeds = [ends - speed for speed in speeds]
        mean = sum(speeds) / places
        # Also where the numbers are so small that nothing is left of them.
        return [speed + _FLOOR * mean for speed in speeds] if mean > 0 else [1.0] * places

    def _speeds(self, places: int) -> list[float]:
        """Return the mean change of the inner loss in the window at each place."""
        changes = [abs(after - before) for before, after in itertools.pairwise(self.seen.losses)]
        largest = max(changes, default=0.0)
        if not largest > 0:
            return [1.0] * places
        changes = [change / largest for change in changes]  # no sum overflows
        mean = sum(changes) / len(changes)
        parts = (changes[start : start + self.length] for start in range(places))
        # Where no run has gone yet the training moves as it does on average.
        return [sum(part) / len(part) if part else mean for part in parts]

    @property
    def phase(self) -> str:
        """The phase of the outer run: early, middle or late."""
        return PHASES[self.seen.phase]

    def after(self, inner_losses: Sequence[float], outer_loss: float) -> Adaptive:
        """Return the window after an outer step; the same if a loss is not finite."""
        if not all(map(math.isfinite, (*inner_losses, outer_loss))):
            return self
        old = self.seen
        known = [_moved(a, b, _DECAY) for a, b in zip(old.losses, inner_losses, strict=False)]
        losses = (*known, *inner_losses[len(known) :], *old.losses[len(inner_losses) :])
        fast, slow = (
            outer_loss if mean is None else _moved(mean, outer_loss, decay)
            for mean, decay in ((old.fast, _FAST), (old.slow, _SLOW))
        )
        is_calm = slow - fast < self.threshold * abs(slow)
        seen = Seen(losses, old.phase, fast, slow, old.calm + 1 if is_calm else 0)
        if seen.calm >= self.patience and seen.phase < len(PHASES) - 1:
            # Windows are elsewhere now, so the outer loss is another one.
            seen = Seen(losses, seen.phase + 1)
        return replace(self, seen=seen)

    def state_dict(self) -> dict[str, Any]:
        """Return what was seen, as plain values."""
        values = asdict(self.seen)
        return {**values, "losses": list(self.seen.losses)}

    def with_state(self, state: Mapping[str, Any]) -> Adaptive:
        """Return the window that has seen what `state_dict` says."""
        if not state:
            return replace(self, seen=Seen())
        return replace(self, seen=Seen(**{**state, "losses": tuple(state["losses"])}))


def _moved(mean: float, value: float, decay: float) -> float:
    return decay * mean + (1 - decay) * value
