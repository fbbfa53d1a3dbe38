"""`dd_plugin.distiller.way_trial`: turns, failures and warnings of a trial."""

import warnings
from types import SimpleNamespace

import pytest
import torch

from dd_plugin.bilevel.tracing.compile import warn_of_failure
from dd_plugin.bilevel.tracing.way import Way
from dd_plugin.distiller.way_trial import Trial, steps_of_a_trial, timed_in_turns

FIRST, SECOND = Way("trace"), Way("trace", channels_last=True)


class Steps:
    """Steps that take what their way says, or more."""

    def __init__(self, *others):
        self.problem = SimpleNamespace(
            compile="trace", channels_last=False, compiled={}, runs_eagerly=set()
        )
        self.now, self.ways, self.noise = 0.0, [], iter(others)

    def try_out(self):
        way = Way(self.problem.compile, self.problem.channels_last)
        self.ways.append(way)
        self.now += {FIRST: 2.0, SECOND: 1.0}[way] + next(self.noise, 0.0)

    def trial(self, bar=None):
        return timed_in_turns(
            [self.problem],
            (FIRST, SECOND),
            self.try_out,
            clock=lambda: self.now,
            device=torch.device("cpu"),
            bar=bar,
        )


def test_each_way_is_timed_twice_and_the_faster_time_counts():
    steps = Steps(0.0, 5.0, 0.0, 7.0, 0.0)
    assert steps.trial() == Trial(2.0, 1.0)
    assert steps.ways == [SECOND, FIRST, SECOND, SECOND, FIRST]


def test_a_bar_counts_the_steps():
    class Bar:
        entered = added = 0

        def __enter__(self):
            self.entered += 1

        def __exit__(self, *_):
            assert self.added == steps_of_a_trial(torch.device("cpu")) == 5

        def add(self):
            self.added += 1

    bar = Bar()
    assert Steps().trial(bar) == Trial(2.0, 1.0)
    assert bar.entered == 1


@pytest.mark.parametrize("error", [MemoryError("no memory"), ValueError("no memory")])
def test_an_error_is_the_failure(error):
    steps = Steps()

    def fails():
        raise error

    steps.try_out = fails
    assert steps.trial().failure == "no memory"


def test_a_way_that_ran_eagerly_failed():
    steps = Steps()

    def runs_eagerly():
        steps.problem.runs_eagerly.add(SECOND)
        warn_of_failure("sweep", RuntimeError("it is not well"))

    steps.try_out = runs_eagerly
    assert "it is not well" in steps.trial().failure


def test_other_warnings_are_passed_on():
    steps = Steps()
    inner = steps.try_out

    def warns():
        warnings.warn("of a model", UserWarning, stacklevel=1)
        inner()

    steps.try_out = warns
    with pytest.warns(UserWarning, match="of a model"):
        assert steps.trial() == Trial(2.0, 1.0)
