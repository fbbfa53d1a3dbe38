"""When a run is said to have diverged."""

import math

import pytest

from dd_plugin.distiller.divergence import divergence

DOWN = [1.75, 1.62, 1.57, 1.4, 1.3, 1.23]


def history(losses):
    entries = []
    for number, loss in enumerate(losses, 1):
        entries += [{"step": 10 * number, "outer_loss": loss}, {"step": 10 * number, "eval": 0.5}]
    return entries


def said(losses):
    """The messages after each log of a run."""
    return [divergence(history(losses[: n + 1])) for n in range(len(losses))]


def test_a_loss_that_goes_above_its_beginning_and_stays_is_told_once():
    messages = said([*DOWN, 2.35, 2.64, 2.49, 2.3, 2.3, 2.3])
    assert [bool(message) for message in messages] == [False] * 8 + [True] + [False] * 3
    (message,) = filter(None, messages)
    for fact in ("2.49", "1.75", "since step 70", "1.23 at step 60"):
        assert fact in message


def test_it_is_told_again_when_it_came_back_in_between():
    messages = said([*DOWN, 2.3, 2.3, 2.3, 1.4, 2.3, 2.3, 2.3])
    assert sum(map(bool, messages)) == 2


@pytest.mark.parametrize(
    "losses",
    [
        [*DOWN, 1.2, 1.3, 1.2],
        [*DOWN, 2.3, 2.3, 1.3, 2.3, 2.3],
        [1.5, 1.5, 1.5, 2.0, 2.0, 2.0, 2.0],  # it never was better: nothing to go back to
        [*DOWN, 1.8, 1.8, 1.8],  # within the noise of the beginning
        [*DOWN, math.nan, 2.3, 2.3],  # steps that are skipped are told elsewhere
        [],
    ],
)
def test_other_courses_are_not(losses):
    assert not any(said(losses))
