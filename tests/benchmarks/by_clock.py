"""Runs that last some seconds of the processor: how variants are compared at equal cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from dd_plugin.bilevel.adaptive_window import PHASES
from dd_plugin.distiller import DistillerCallback


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
