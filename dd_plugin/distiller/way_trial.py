"""A step of a run, timed in two ways on throw-away copies.

For `auto_compile`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch

from dd_plugin.bilevel import BilevelProblem, CompileWarning
from dd_plugin.bilevel.ahead import has_failed, run_as
from dd_plugin.bilevel.tracing.way import Way
from dd_plugin.distiller.moving_bar import MovingBar
from dd_plugin.text import first_line


class Trial(NamedTuple):
    """What came of it.

    Attributes:
        first: seconds of a step in the first way.
        second: in the second way.
        failure: why it could not be run in the second way; empty if it could.
    """

    first: float
    second: float
    failure: str = ""


def timed_in_turns(
    problems: Sequence[BilevelProblem],
    ways: tuple[Way, Way],
    try_out: Callable[[], None],
    *,
    clock: Callable[[], float],
    device: torch.device,
    bar: MovingBar | None = None,
) -> Trial:
    """Return how long a step takes in either way.

    Args:
        problems: of the step; they are left in the way that was timed last.
        ways: the first is known to work.
        try_out: computes a step, and drops it.
        clock: seconds.
        device: of the step.
        bar: over as many steps as `steps_of_a_trial` says.
    """
    first, second = ways
    taken: dict[Way, list[float]] = {first: [], second: []}
    try:
        with _failures() as failures, bar or nullcontext():
            run_all_as(problems, second)
            for _ in range(_warming_up(device)):
                try_out()
                _move(bar)
            # Each way twice, against drift of the machine.
            for way in (first, second, second, first):
                run_all_as(problems, way)
                began = clock()
                try_out()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                taken[way].append(clock() - began)
                _move(bar)
    except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on without
        return Trial(0.0, 0.0, first_line(error))
    if any(has_failed(problem, second) for problem in problems):
        return Trial(0.0, 0.0, next(iter(failures), "no reason is known"))
    # The faster of two: what else the machine does only adds.
    return Trial(min(taken[first]), min(taken[second]))


def steps_of_a_trial(device: torch.device) -> int:
    """Return how often a trial computes the step."""
    return _warming_up(device) + 4


def _warming_up(device: torch.device) -> int:
    # A GPU's second run is recorded, and the third the first to be replayed.
    return 3 if device.type == "cuda" else 1


def _move(bar: MovingBar | None) -> None:
    if bar is not None:
        bar.add()


def run_all_as(problems: Sequence[BilevelProblem], way: Way) -> None:
    """Let all problems of a step run in a way from here on."""
    for problem in problems:
        run_as(problem, way)


@contextmanager
def _failures() -> Iterator[list[str]]:
    """Collect the compiler's failures inside instead of warning of them."""
    reasons: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield reasons
    for warning in caught:
        if issubclass(warning.category, CompileWarning):
            reasons.append(str(warning.message))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
