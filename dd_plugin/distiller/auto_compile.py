"""``compile: auto`` in a run: traced at first, compiled from a step on where that pays.

Used by `distiller`, around every outer step. Steps are timed until `layout_choice` and
`compile_choice` can decide. Where compiling pays, `cache_filling` does most of it beside the run.
Then the same step is timed both ways on throw-away copies, and the choice is made at a step number.
It goes into the state of the run and a file of its folder, so a resumed run changes at the same
step and measures nothing. All processes do what the main process says.
"""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from dd_plugin.bilevel import BilevelProblem
from dd_plugin.bilevel.ahead import forget_others, has_failed, run_as, traced_operations
from dd_plugin.bilevel.tracing.way import Compile, Way
from dd_plugin.distiller import layout_choice
from dd_plugin.distiller.cache_filling import CacheFilling, is_filled, note_filled
from dd_plugin.distiller.callbacks import tell
from dd_plugin.distiller.compile_choice import (
    Choice,
    Measured,
    Next,
    faster,
    next_action,
    too_short,
)
from dd_plugin.distiller.head_course import HeadCourse
from dd_plugin.distiller.layout_choice import LayoutChoice
from dd_plugin.distiller.machine import processor, usable_cores
from dd_plugin.distiller.moving_bar import MovingBar
from dd_plugin.distiller.run import Run, TrainState
from dd_plugin.distiller.storage_choice import (
    choose_activations,
    forget_activations,
    keep_activations,
    kept_when_compiled,
)
from dd_plugin.distiller.way_trial import Trial, run_all_as, steps_of_a_trial, timed_in_turns
from dd_plugin.files import write_whole
from dd_plugin.text import first_line

logger = logging.getLogger(__name__)

# In the folder of a run: choices that its newest checkpoint may not have yet.
CHOICES = ".choices.json"
# Steps that are timed before anything is decided.
_STEPS = 3
_Next = Next | Literal["settle", "go on"]
_MODES: dict[str, Compile] = {"trace": "trace", "inductor": True}


class Filling(Protocol):
    """What `CacheFilling` shows of itself."""

    @property
    def is_running(self) -> bool:
        """See `CacheFilling`."""
        ...

    @property
    def failure(self) -> str:
        """See `CacheFilling`."""
        ...

    def stop(self) -> None:
        """See `CacheFilling`."""
        ...


class AutoCompile:
    """The way in which the steps of a run are run, as it is decided on the way.

    Args:
        run: its settings and processes.
        state: its networks, and the position that takes the choice.
        try_out: computes a step as it is run now, and drops it.
        clock: seconds; a test gives its own.
        fill: starts a process beside the run, see `CacheFilling`.
        cores: cores that this process may use; by default as the system says.
    """

    def __init__(
        self,
        run: Run,
        state: TrainState,
        try_out: Callable[[], None],
        *,
        clock: Callable[[], float] = time.perf_counter,
        fill: Callable[..., Filling] = CacheFilling,
        cores: int | None = None,
    ) -> None:
        self._run, self._state, self._try_out = run, state, try_out
        self._clock, self._fill = clock, fill
        self._free_cores = (usable_cores() if cores is None else cores) - run.processes_here
        self._may_fill = self._free_cores > 0 and CacheFilling.is_possible()
        self._device = run.accelerator.device
        self._seconds: list[float] = []
        self._filling: Filling | None = None
        self._problems: list[BilevelProblem] = []
        self._may_compile = run.config.compile == "auto"
        self._channels_last = self._may_settle = False
        networks, kinds = state.networks, ("cpu", "cuda")
        if run.config.compile in ("auto", "trace") and not isinstance(networks, HeadCourse):
            self._channels_last = run.config.memory_format == "channels_last"
            for problem in networks.problems:
                if problem.compile:  # as an earlier run of the same trainer has left it
                    run_as(problem, Way("trace", self._channels_last))
            traced = all(problem.compile == "trace" for problem in networks.problems)
            if traced and run.config.method == "mixed" and self._device.type in kinds:
                self._problems = networks.problems
                self._may_settle = self._device.type == "cpu"

    def __enter__(self) -> Self:
        """Take over the choice of the run so far."""
        if self._problems and (self.choice or self.layout):
            self._write()
        if self._problems and self.choice is not None:
            was_for, here = self.choice.processor, processor(self._device)
            if self.choice.compile == "inductor" and was_for != here:
                logger.warning(
                    "steps were compiled for %s and are compiled for %s from here on: rounding "
                    "differs",
                    was_for,
                    here,
                )
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_filling()

    @property
    def layout(self) -> LayoutChoice | None:
        """The choice of a memory layout that binds this run; None if there is none yet."""
        choice = LayoutChoice.from_json(self._state.position.choices.get(layout_choice.CHOICE))
        return choice if choice and choice.binds(self._run.config.max_steps) else None

    @property
    def choice(self) -> Choice | None:
        """The choice that binds this run; None if there is none yet."""
        choice = Choice.from_json(self._state.position.choices.get("compile"))
        return choice if choice and choice.binds(self._run.config.max_steps) else None

    def take(self, step: Callable[[], float]) -> float:
        """Take an outer step in the way that is chosen for it.

        Args:
            step: takes it and returns its loss.
        """
        if not self._problems:
            return step()
        self._may_settle = self._may_settle and self.layout is None
        is_open = self.choice is None and (self._may_compile or self._may_settle)
        if is_open:
            self._decide()
        if self.choice or (self.layout and self.layout.channels_last):
            self._obey()
        if self.choice is not None or not is_open:
            return step()
        functions, began = self._functions(), self._clock()
        loss = step()
        if self._functions() == functions:  # else it traced some
            self._seconds.append(self._clock() - began)
        return loss

    # Deciding.

    def _decide(self) -> None:
        """Do what is next, alike on all processes: nothing yet, fill the cache, try, or choose."""
        action, choice = self._run.from_main(self._next() if self._is_main else (None, None))
        if action in ("settle", "go on"):
            self._settle(is_long=action == "settle")
            if action == "settle":
                return
            action, choice = self._run.from_main(self._next() if self._is_main else (None, None))
        if action is not None:
            choose_activations(self._run, self._state)
        if action == "fill":
            if self._run.accelerator.is_local_main_process:
                self._start_filling()
        elif action == "try":
            self._stop_filling()
            trial = self._timed((self._way("trace"), self._way("inductor")))
            choice = self._run.from_main(self._chosen(trial))
        if choice is not None:
            self._stop_filling()
            self._take_over(Choice(**choice))

    @property
    def _is_main(self) -> bool:
        return self._run.accelerator.is_main_process

    def _next(self) -> tuple[_Next | None, dict[str, Any] | None]:
        """Return the next action and the choice, as far as there are; on the main process."""
        failed = any(has_failed(problem, self._way("trace")) for problem in self._problems)
        if failed and self._may_compile:
            return None, self._stay("the network cannot be traced, and runs eagerly").to_json()
        all_traced = all(problem.compiled for problem in self._problems)
        if len(self._seconds) < _STEPS or not all_traced:
            return None, None
        if self._may_settle:
            return "settle" if layout_choice.may_pay(self._measured()) else "go on", None
        if not self._may_compile:
            return None, None
        if self._filling is not None:
            if self._filling.is_running:
                return None, None
            if failure := self._filling.failure:
                logger.warning("the steps could not be compiled beside the run: %s", failure)
                self._may_fill = False
                self._stop_filling()
            else:
                note_filled(self._problems, self._device)
        measured = self._measured()
        action = next_action(measured)
        if action != "trace":
            return action, None
        return None, self._stay(too_short(measured)).to_json()

    def _measured(self) -> Measured:
        left = self._run.config.max_steps - self._state.position.global_step
        return Measured(
            steps_left=left,
            seconds=statistics.median(self._seconds[-9:]),
            operations=sum(traced_operations(problem) for problem in self._problems),
            is_cached=self._filling is not None or is_filled(self._problems, self._device),
            has_core=self._may_fill,
        )

    def _stay(self, reason: str) -> Choice:
        return Choice(
            compile="trace",
            from_step=self._state.position.global_step,
            max_steps=self._run.config.max_steps,
            processor=processor(self._device),
            reason=reason,
        )

    def _chosen(self, trial: Trial) -> dict[str, Any]:
        step, most = self._state.position.global_step, self._run.config.max_steps
        # A process that cannot compile would hold up the others.
        failures = [text for text in self._gathered(trial.failure) if text]
        if failures:
            return self._stay(f"compiling failed: {failures[0]}").to_json()
        here = processor(self._device)
        choice = faster(step, most, traced=trial.first, compiled=trial.second, processor=here)
        note_filled(self._problems, self._device)
        return choice.to_json()

    # The trials.

    def _timed(self, ways: tuple[Way, Way]) -> Trial:
        steps, is_quiet = steps_of_a_trial(self._device), self._run.config.disable_tqdm
        words = "time a step in two ways: {done} of {all}"
        return timed_in_turns(
            self._problems,
            ways,
            self._try_out,
            clock=self._clock,
            device=self._device,
            bar=MovingBar([1.0] * steps, words, shown=self._is_main and not is_quiet),
        )

    def _settle(self, *, is_long: bool) -> None:
        """Choose what traced steps keep and how tensors lie from here on, all processes together.

        Args:
            is_long: the rest of the run is long enough for a trial, and for other bits than those
                of a short run.
        """
        self._may_settle = False
        position, most = self._state.position, self._run.config.max_steps
        step, layout = position.global_step, self._channels_last
        if not is_long:
            choice = LayoutChoice(layout, step, most, "the run is short")
            position.choices[layout_choice.CHOICE] = choice.to_json()
            return
        keep_activations(self._run, self._state)
        choice = LayoutChoice(layout, step, most, "both layouts are not tried here")
        is_tried = layout_choice.is_tried(self._run.config, self._problems)
        if is_tried:
            choice = self._tried_layouts()
        values = self._run.from_main(choice.to_json())
        self._keep(layout_choice.CHOICE, values, LayoutChoice(**values).line() if is_tried else "")
        # What was timed otherwise says nothing about the steps from here on.
        self._seconds.clear()

    def _tried_layouts(self) -> LayoutChoice:
        step, most = self._state.position.global_step, self._run.config.max_steps
        trial = self._timed((Way("trace"), Way("trace", channels_last=True)))
        # A process that cannot compute so would hold up the others.
        if failures := [text for text in self._gathered(trial.failure) if text]:
            logger.info("channels last could not be tried: %s", failures[0])
            reason = "the network does not compute with channels last"
            return LayoutChoice(False, step, most, reason)
        return layout_choice.faster(step, most, trial)

    def _way(self, how: Literal["trace", "inductor"]) -> Way:
        """Return a way of running the next step, in the memory layout that is chosen for it."""
        step, layout = self._state.position.global_step, self.layout
        last = self._channels_last or (layout is not None and layout.at(step))
        return Way(_MODES[how], last)

    def _obey(self) -> None:
        """Run the next step as it was chosen."""
        step = self._state.position.global_step
        run_all_as(self._problems, self._way(self.choice.at(step) if self.choice else "trace"))

    def _functions(self) -> int:
        return sum(len(problem.compiled) for problem in self._problems)

    # Beside the run.

    def _start_filling(self) -> None:
        """Start the process; where that fails, compiling is tried without."""
        recipe, kept = self._state.synthetic.recipe, kept_when_compiled(self._run, self._state)
        try:
            self._filling = self._fill(self._problems, recipe, kept, self._free_cores)
        except Exception as error:  # noqa: BLE001 - no pickle of a network, no more processes
            self._filling = _Failed(first_line(error))

    def _stop_filling(self) -> None:
        if self._filling is not None:
            self._filling.stop()
            self._filling = None

    # The choice.

    def _take_over(self, choice: Choice) -> None:
        if choice.compile == "trace":
            forget_activations(self._state)
        self._keep("compile", choice.to_json(), choice.line())

    def _keep(self, name: str, choice: dict[str, Any], line: str) -> None:
        """Note a choice for the next step and those after it, which are run as it says."""
        position = self._state.position
        position.choices[name] = choice
        if line:
            position.log_history.append({"step": position.global_step, name: line})
        run_all_as(
            self._problems,
            self._way(self.choice.at(position.global_step) if self.choice else "trace"),
        )
        for problem in self._problems:
            forget_others(problem)
        if self._is_main:
            self._write()
            if line:
                tell(f"{name}: {line}")

    def _write(self) -> None:
        """Write the choices before the first step that obeys it."""
        if not self._run.config.save_steps or not self._is_main:
            return
        try:
            text = json.dumps(self._state.position.choices)
            write_whole(self._run.folder / CHOICES, text.encode())
        except OSError as error:  # as where a checkpoint cannot be written
            logger.warning("how steps are run could not be written: %s", error)

    def _gathered(self, value: str) -> list[str]:
        if self._run.accelerator.num_processes == 1:
            return [value]
        from accelerate.utils import gather_object

        return list(gather_object([value]))


class _Failed:
    """A process that could not be started."""

    is_running = False

    def __init__(self, failure: str) -> None:
        self.failure = failure

    def stop(self) -> None:
        """Do nothing."""


def later_choices(checkpoint: Path, step: int) -> dict[str, Any]:
    """Return the choices of the run that wrote a checkpoint, if it made one after that.

    Args:
        checkpoint: its folder.
        step: outer steps done there.
    """
    try:
        choices: dict[str, Any] = json.loads((checkpoint.parent / CHOICES).read_text())
        made = [choices[name] for name in ("compile", layout_choice.CHOICE) if name in choices]
        is_later = any(choice["from_step"] >= step for choice in made)
    except (KeyError, OSError, TypeError, ValueError):
        return {}
    return choices if is_later else {}
