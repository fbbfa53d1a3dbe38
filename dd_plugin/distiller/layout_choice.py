"""``memory_format: auto``: the memory layout that the steps of a run compute fastest in.

For `auto_compile`, which times both on throw-away copies. On a processor, channels last took 0.78
of the time for a traced ConvNet of width 32 and 1.06 of it for one of width 128
(`tests.benchmarks.layouts`), so it is tried where a run is long enough. Results differ by rounding,
so the choice goes into the state of the run, and short runs never depend on a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dd_plugin.bilevel import BilevelProblem
from dd_plugin.distiller.compile_choice import LEAST_GAIN, Measured, StoredChoice
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.distiller.way_trial import Trial

# In the choices of a run's state.
CHOICE: Final = "memory_format"
# Seconds of traced steps that must be left. Shorter runs are the same on every machine.
_LEAST_LEFT: Final = 120.0
# Expected before it is measured.
_GAIN: Final = 0.15
# Seconds of tracing anew, per traced operation.
_TRACING: Final = 0.006
# Steps whose time a trial takes: one to trace, two each way.
_TRIAL: Final = 5


@dataclass(frozen=True)
class LayoutChoice(StoredChoice):
    """The memory layout of a run, and why; a checkpoint holds it and a resumed run obeys it.

    Attributes:
        channels_last: from ``from_step`` on; before it, tensors are contiguous.
        from_step: an outer step, from 0.
        max_steps: of the run that chose. A longer run may choose again where nothing has changed.
        reason: in words.
    """

    channels_last: bool
    from_step: int
    max_steps: int
    reason: str

    def binds(self, max_steps: int) -> bool:
        """Return whether a run of that many steps has to obey it."""
        return self.channels_last or max_steps <= self.max_steps

    def at(self, step: int) -> bool:
        """Return whether a step is run with channels last."""
        return self.channels_last and step >= self.from_step

    def line(self) -> str:
        """Return one line for the log."""
        what = "tensors stay contiguous"
        if self.channels_last:
            # Steps are counted from 1 in what users read.
            what = f"channels last from step {self.from_step + 1} on"
        return f"{what}: {self.reason}"


def is_tried(config: DistillerConfig, problems: list[BilevelProblem]) -> bool:
    """Return whether a run on a processor tries both layouts, if it is long enough."""
    if config.memory_format != "auto" or config.batch_networks:
        return False
    return all(_has_convolutions(problem) for problem in problems)


def may_pay(measured: Measured) -> bool:
    """Return whether the rest of a run is long enough for a trial."""
    left = measured.steps_left * measured.seconds
    cost = _TRACING * measured.operations + _TRIAL * measured.seconds
    return left >= _LEAST_LEFT and _GAIN * (left - cost) > cost


def faster(step: int, max_steps: int, trial: Trial) -> LayoutChoice:
    """Return the choice after a trial.

    Args:
        step: the next one.
        max_steps: of the run.
        trial: of a contiguous step first, and of one with channels last.
    """
    contiguous, last = trial.first, trial.second
    reason = f"a step takes {last:.3g} s with channels last and {contiguous:.3g} s without"
    return LayoutChoice(last <= (1 - LEAST_GAIN) * contiguous, step, max_steps, reason)


def _has_convolutions(problem: BilevelProblem) -> bool:
    # A single one, as in a ViT, is no matter.
    return problem.model.convolutions > 1
