"""Callbacks in the style of `transformers.Trainer`, and those that every run has.

Beside `distiller`, which calls them. A callback sees the configuration, the state of the run and a
control through which it can ask for a log, an evaluation, a checkpoint, or the end of the run.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.distiller.divergence import divergence
from dd_plugin.text import count, percent

logger = logging.getLogger(__name__)


@dataclass
class DistillerState:
    """The progress of a run.

    Attributes:
        global_step: outer steps done.
        max_steps: outer steps in all.
        log_history: every line that was logged.
        skipped_steps: steps left out because something was not finite.
        consecutive_skipped: how many of them just now in a row.
        gradient_norms: moving norm of each kind of gradient.
        inner_steps: inner training steps done by all networks.
        interrupted: the name of the signal that ended the run early, such as ``"SIGINT"`` for
            Ctrl-C, or None. `Distiller.train` returns in both cases, so a script looks here.
        best_metric: with `load_best_model_at_end`, the highest accuracy of an evaluation.
        best_step: the outer step of that evaluation.
        losses: finite outer losses since the last line of the log.
        choices: what settings of ``auto`` stand for in this run; a resumed run obeys it.
    """

    global_step: int = 0
    max_steps: int = 0
    log_history: list[dict[str, Any]] = field(default_factory=list)
    skipped_steps: int = 0
    consecutive_skipped: int = 0
    gradient_norms: dict[str, float] = field(default_factory=dict)
    inner_steps: int = 0
    interrupted: str | None = None
    best_metric: float | None = None
    best_step: int | None = None
    losses: list[float] = field(default_factory=list)
    choices: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return a line on the run; its lists are attributes."""
        facts = [f"{self.global_step} of {count(self.max_steps, 'outer step')}"]
        if losses := [line for line in self.log_history if "outer_loss" in line]:
            facts.append(f"outer loss {losses[-1]['outer_loss']:.4g}")
        if evaluated := [line for line in self.log_history if "eval_accuracy_mean" in line]:
            facts.append(f"{_accuracy(evaluated[-1], 'eval_')} at step {evaluated[-1]['step']}")
        if self.skipped_steps:
            facts.append(f"{count(self.skipped_steps, 'step')} skipped")
        if self.interrupted:
            facts.append(f"interrupted by {self.interrupted}")
        return f"<{type(self).__name__}: {', '.join(facts)}>"


def _accuracy(metrics: Mapping[str, Any], prefix: str = "") -> str:
    """Return the accuracy of an evaluation in words, with its spread if it has one."""
    networks = int(metrics[f"{prefix}networks"])
    spread = metrics[f"{prefix}accuracy_std"] if networks > 1 else None
    accuracy = percent(metrics[f"{prefix}accuracy_mean"], spread)
    return f"accuracy {accuracy} ({count(networks, 'network')})"


@dataclass
class DistillerControl:
    """Requests of callbacks after a step; the loop clears them when it has served them."""

    should_log: bool = False
    should_evaluate: bool = False
    should_save: bool = False
    should_training_stop: bool = False


Config: TypeAlias = DistillerConfig
State: TypeAlias = DistillerState
Control: TypeAlias = DistillerControl


class DistillerCallback:
    """Base class: override what you need.

    Every method gets the configuration, the state and the control.

    Among the keyword arguments ``distiller`` is always the running `Distiller`, on every process.
    """

    def on_train_begin(self, config: Config, state: State, control: Control, **kwargs: Any) -> None:
        """Called before the first step."""

    def on_step_end(self, config: Config, state: State, control: Control, **kwargs: Any) -> None:
        """Called after an outer step, before its requests are served."""

    def on_log(self, config: Config, state: State, control: Control, **kwargs: Any) -> None:
        """Called after values were added to the log; they are the keyword argument ``logs``."""

    def on_evaluate(self, config: Config, state: State, control: Control, **kwargs: Any) -> None:
        """Called after an evaluation; its results are the keyword argument ``metrics``."""

    def on_save(self, config: Config, state: State, control: Control, **kwargs: Any) -> None:
        """Called after a checkpoint was written."""

    def on_train_end(self, config: Config, state: State, control: Control, **kwargs: Any) -> None:
        """Called after the last step."""


class IntervalCallback(DistillerCallback):
    """Logs, evaluates and saves at the intervals of the configuration."""

    def on_step_end(self, config: Config, state: State, control: Control, **kwargs: Any) -> None:
        """See `DistillerCallback`."""

        def due(every: int) -> bool:
            return every > 0 and state.global_step % every == 0

        last = state.global_step >= state.max_steps
        control.should_log |= due(config.logging_steps) or last
        control.should_evaluate |= due(config.eval_steps) and not last
        control.should_evaluate |= last and config.load_best_model_at_end
        control.should_save |= due(config.save_steps) or (last and config.save_steps > 0)
        control.should_training_stop |= last


class ProgressCallback(DistillerCallback):
    """A progress bar on the main process, with the latest losses and accuracies.

    Evaluations are also lines of their own on the standard error stream, with the bar or without.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._shown: dict[str, str] = {}

    def on_train_begin(self, config: Config, state: State, control: Control, **kwargs: Any) -> None:
        """See `DistillerCallback`."""
        if kwargs["distiller"].accelerator.is_main_process and not config.disable_tqdm:
            from tqdm.auto import tqdm

            with suppress(OSError):
                self._bar = tqdm(
                    total=state.max_steps, initial=state.global_step, desc="distill", unit="step"
                )

    def on_step_end(self, config: Config, state: State, control: Control, **kwargs: Any) -> None:
        """See `DistillerCallback`."""
        if self._bar is not None:
            with suppress(OSError):  # a full disk under the file that stderr goes to
                self._bar.update(state.global_step - self._bar.n)

    def on_log(self, config: Config, state: State, control: Control, **kwargs: Any) -> None:
        """See `DistillerCallback`."""
        if self._bar is not None:
            logs = kwargs["logs"]
            if "outer_loss" in logs:
                self._shown["loss"] = f"{logs['outer_loss']:.3f}"
            if "eval_accuracy_mean" in logs:
                self._shown["accuracy"] = percent(logs["eval_accuracy_mean"])
            with suppress(OSError):
                self._bar.set_postfix(self._shown)

    def on_evaluate(self, config: Config, state: State, control: Control, **kwargs: Any) -> None:
        """See `DistillerCallback`."""
        if not kwargs["distiller"].accelerator.is_main_process:
            return
        tell(f"step {state.global_step} of {config.max_steps}: {_accuracy(kwargs['metrics'])}")

    def on_train_end(self, config: Config, state: State, control: Control, **kwargs: Any) -> None:
        """See `DistillerCallback`."""
        if self._bar is not None:
            with suppress(OSError):
                self._bar.close()


class DivergenceCallback(DistillerCallback):
    """Warns on the main process when the outer loss has gone above its beginning, and stays."""

    def on_log(self, config: Config, state: State, control: Control, **kwargs: Any) -> None:
        """See `DistillerCallback`."""
        message = divergence(state.log_history) if "outer_loss" in kwargs["logs"] else ""
        if message and kwargs["distiller"].accelerator.is_main_process:
            logger.warning(
                "%s. Begin anew with a lower `learning_rate` (now %g) or `step_size_lr` (now %g); "
                "`dd-plugin export CHECKPOINT` saves the set of an earlier checkpoint",
                message,
                config.learning_rate,
                config.step_size_lr,
            )


def tell(line: str) -> None:
    """Write a line to the standard error stream, above a progress bar."""
    from tqdm.auto import tqdm

    with suppress(OSError):
        tqdm.write(line, file=sys.stderr)


def callbacks_of_run(callbacks: Any) -> list[DistillerCallback]:
    """Return the callbacks of every run and those of the user.

    Classes are made without arguments, as `transformers.Trainer` does.

    Raises:
        TypeError: something else was given.
    """
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"`callbacks` must be a list, got {callbacks!r}; use callbacks=[it]")
    added = [each() if isinstance(each, type) else each for each in callbacks]
    events = [name for name in vars(DistillerCallback) if name.startswith("on_")]
    for each in added:
        if not all(callable(getattr(each, event, None)) for event in events):
            raise TypeError(
                f"`callbacks` must be of DistillerCallback, got {each!r}; derive its class from it"
            )
    return [IntervalCallback(), ProgressCallback(), DivergenceCallback(), *added]
