"""The rule of ``compile: auto``: when compiling the steps of a run pays.

A pure function of what was measured, for `auto_compile`. Traced steps are ready in seconds.
Compiled ones take about half the time, after a minute or more of compiling. What is saved is
``steps left * seconds of a traced step * gain``, and must be more than what compiling costs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Self

# Expected before it is measured: 0.45 on ConvNets, 0.1 to 0.2 on ResNet-18.
_GAIN = 0.3
# A gain below this one may be noise.
LEAST_GAIN: Final = 0.05
# Seconds of compiling per traced operation and beside them, without and with a filled cache.
_COLD = (0.06, 5.0)
_WARM = (0.005, 4.0)
# A process beside the run has the lowest priority.
_BESIDE = 1.5
# Compiling in the run itself must pay twice, since a small gain would make it a loss.
_SAFETY = 2.0
# Traced steps whose time a trial takes: two each way.
_TRIAL = 4

Next = Literal["trace", "fill", "try"]


@dataclass(frozen=True)
class Measured:
    """The facts that decide.

    Attributes:
        steps_left: outer steps.
        seconds: of a traced outer step.
        operations: in the traced functions.
        is_cached: whether the compiler's cache on disk has these functions.
        has_core: whether another process may compile beside the run.
    """

    steps_left: int
    seconds: float
    operations: int
    is_cached: bool
    has_core: bool


def next_action(measured: Measured) -> Next:
    """Return what to do: stay with the trace, fill the compiler's cache beside it, or try now."""
    left = measured.steps_left * measured.seconds
    warm, trial = _seconds(_WARM, measured), _TRIAL * measured.seconds
    cold = _seconds(_COLD, measured)
    if measured.is_cached:
        return "try" if _GAIN * (left - trial) > warm + trial else "trace"
    if measured.has_core:
        after = left - _BESIDE * cold
        return "fill" if _GAIN * (after - trial) > warm + trial else "trace"
    return "try" if _GAIN * (left - trial) > _SAFETY * cold + trial else "trace"


def _seconds(cost: tuple[float, float], measured: Measured) -> float:
    per_operation, beside = cost
    return per_operation * measured.operations + beside


@dataclass(frozen=True)
class StoredChoice:
    """What a run has chosen by itself, as a checkpoint holds it."""

    @classmethod
    def from_json(cls, values: Any) -> Self | None:
        """Return the choice that a checkpoint holds; None if it holds none."""
        return cls(**values) if values else None

    def to_json(self) -> dict[str, Any]:
        """Return it as a checkpoint holds it."""
        return asdict(self)


@dataclass(frozen=True)
class Choice(StoredChoice):
    """How the steps of a run are run, and why; a checkpoint holds it and a resumed run obeys it.

    Attributes:
        compile: from ``from_step`` on; before it, steps are traced.
        from_step: an outer step, from 0.
        max_steps: of the run that chose. A longer run may choose again where steps are traced.
        processor: that the steps are compiled for.
        reason: in words.
    """

    compile: Literal["trace", "inductor"]
    from_step: int
    max_steps: int
    processor: str
    reason: str

    def binds(self, max_steps: int) -> bool:
        """Return whether a run of that many steps has to obey it."""
        return self.compile == "inductor" or max_steps <= self.max_steps

    def at(self, step: int) -> Literal["trace", "inductor"]:
        """Return how a step is run."""
        return self.compile if step >= self.from_step else "trace"

    def line(self) -> str:
        """Return one line for the log."""
        what = "traced"
        if self.compile == "inductor":
            # Steps are counted from 1 in what users read.
            what = f"compiled by inductor from step {self.from_step + 1} on"
        return f"steps are {what}: {self.reason}"


def faster(step: int, max_steps: int, *, traced: float, compiled: float, processor: str) -> Choice:
    """Return the choice after a trial.

    Args:
        step: the next one.
        max_steps: of the run.
        traced: seconds of an outer step.
        compiled: seconds of the same step compiled.
        processor: that it was compiled for.
    """
    reason = f"a step takes {compiled:.3g} s compiled and {traced:.3g} s traced"
    pays = compiled <= (1 - LEAST_GAIN) * traced
    return Choice(
        compile="inductor" if pays else "trace",
        from_step=step,
        max_steps=max_steps,
        processor=processor,
        reason=reason,
    )


def too_short(measured: Measured) -> str:
    """Return the reason why a run stays traced whose rest is too short to compile."""
    left = measured.steps_left * measured.seconds
    return f"compiling does not pay for the remaining {left:.0f} s"
