"""Runs that last some seconds of the processor: how variants are compared at equal cost."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from dd_plugin.bilevel.adaptive_window import PHASES
from dd_plugin.distiller import Distiller, DistillerCallback, DistillerConfig

# What the settings of such a run leave to the clock, and what it does not do besides.
_OF_CLOCK: Final = {
    "max_steps": 1_000_000,
    "lr_scheduler_type": "constant",  # `ByClock` lowers the rates
    "eval_steps": 0,
    "save_steps": 0,
    "logging_steps": 1_000_000,
    "baselines": False,
    "disable_tqdm": True,
}


class ByClock(DistillerCallback):
    """Ends a run after some seconds, along which the learning rates fall.

    Args:
        seconds: from the end of the first outer step.
        clock: the time; by default that of the processor, which other work does not change.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.process_time) -> None:
        self.seconds, self._clock = seconds, clock
        self._began: float | None = None
        self._rates: list[float] = []
        self.elapsed = 0.0
        self.phases = dict.fromkeys(PHASES, 0)

    def on_step_end(self, config: Any, state: Any, control: Any, **kwargs: Any) -> None:
        groups = kwargs["distiller"].optimizer.param_groups
        if self._began is None:
            self._began, self._rates = self._clock(), [group["lr"] for group in groups]
        self.elapsed = self._clock() - self._began
        share = min(self.elapsed / self.seconds, 1.0)
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * share))
        control.should_training_stop |= share >= 1
        if state.window:
            self.phases[PHASES[state.window["phase"]]] += 1


def run_by_clock(settings: Mapping[str, Any], seconds: float) -> tuple[ByClock, dict[str, Any]]:
    """Make a run of some seconds, and test its set.

    Args:
        settings: of `DistillerConfig`, but for the folder and the length.
        seconds: of the processor.

    Returns:
        The clock, and the fields that every row of such a run has.
    """
    clock = ByClock(seconds)
    with tempfile.TemporaryDirectory() as folder:
        config = DistillerConfig(**{**settings, **_OF_CLOCK, "output_dir": folder})
        distiller = Distiller(config=config, callbacks=[clock])
        state = distiller.train()
        if state.interrupted:
            raise SystemExit(130)
        scores = distiller.compare()["distilled"]
        distiller.end()
    return clock, {
        "elapsed": clock.elapsed,
        "outer_steps": state.global_step,
        "inner_steps_run": state.inner_steps,
        "skipped_steps": state.skipped_steps,
        "accuracies": list(scores.accuracies),
    }
