"""`dd_plugin.bilevel.adaptive_window`: a window whose place follows from what was seen."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dd_plugin.bilevel import AdaptingWindow, Adaptive, Random
from dd_plugin.bilevel.adaptive_window import PHASES, Seen

ANY = st.floats(allow_nan=True, allow_infinity=True)
STEPS = st.tuples(st.lists(ANY, max_size=12), ANY)


@settings(max_examples=200, deadline=None)
@given(
    length=st.integers(1, 10),
    more=st.integers(0, 20),
    seen=st.lists(STEPS, max_size=8),
    phase=st.integers(0, 2),
    seed=st.integers(0, 2**63 - 1),
)
def test_bounds_are_valid_whatever_was_seen(length, more, seen, phase, seed):
    window = Adaptive(length, seen=Seen(phase=phase))
    for inner_losses, outer_loss in seen:
        window = window.after(inner_losses, outer_loss)
    steps = length + more
    start, stop = window.bounds(steps, seed)
    assert start >= 0
    assert stop == start + length <= steps
    weights = window.weights(steps)
    assert len(weights) == more + 1
    assert all(math.isfinite(weight) and weight > 0 for weight in weights)
    # What was seen is all that it depends on, and it passes through JSON without a change.
    again = Adaptive(length).with_state(json.loads(json.dumps(window.state_dict())))
    assert again == window
    assert again.bounds(steps, seed) == (start, stop)


def after(window, inner_losses, outer_losses):
    for outer_loss in outer_losses:
        window = window.after(inner_losses, outer_loss)
    return window


# The loss falls by half in each of the first steps, and then not at all.
CURVE = [1.0, 0.5, 0.25, 0.25, 0.25, 0.25]


def starts(window, steps=6, seeds=400):
    drawn = [window.bounds(steps, seed)[0] for seed in range(seeds)]
    return [drawn.count(start) / seeds for start in range(steps - window.length + 1)]


def test_places_are_likely_where_training_moves_and_in_the_end_where_it_does_not():
    early = Adaptive(2).after(CURVE, 1.0)
    # Changes as shares of the largest: 1, 0.5, 0, 0, 0. Means of two: 0.75, 0.25, 0, 0 and 0, which
    # is that of the last one alone. A tenth of their mean, 0.02, is added to each.
    assert early.weights(6) == pytest.approx([0.77, 0.27, 0.02, 0.02, 0.02])
    shares = starts(early)
    assert shares[0] > 0.5
    assert shares[0] > shares[1] > max(shares[2:4])
    assert all(share > 0 for share in shares)  # each place is seen now and then
    late = replace(early, seen=replace(early.seen, phase=2))
    shares = starts(late)
    assert shares[0] < shares[1] < min(shares[2:])
    middle = replace(early, seen=replace(early.seen, phase=1))
    assert middle.weights(6) == [1.0] * 5


def test_without_anything_seen_it_is_a_random_window():
    shares = starts(Adaptive(2))
    assert max(shares) - min(shares) < 0.1
    assert {Adaptive(3).bounds(5, seed) for seed in range(60)} == {(0, 3), (1, 4), (2, 5)}


def test_a_phase_ends_when_the_outer_loss_has_stopped_falling():
    window = Adaptive(2, patience=10)
    window = after(window, CURVE, [0.97**k for k in range(60)])
    assert window.phase == "early"
    # The slow mean takes a while until it is where the fast one is.
    phases = []
    for _ in range(400):
        window = window.after(CURVE, 0.15)
        phases.append(window.phase)
    assert list(dict.fromkeys(phases)) == list(PHASES)
    changed = [phases.index(phase) for phase in PHASES]
    assert changed[2] - changed[1] == 10
    assert window.phase == "late"


def test_steps_that_were_not_run_keep_what_was_seen_of_them():
    window = Adaptive(1).after([4.0, 2.0, 1.0], 1.0).after([5.0], 1.0)
    assert window.seen.losses == pytest.approx((4.1, 2.0, 1.0))
    assert window.after([1.0] * 5, 1.0).seen.losses[3:] == (1.0, 1.0)


def test_a_step_that_is_not_finite_is_not_seen():
    window = Adaptive(1).after([1.0], 1.0)
    assert window.after([math.nan], 1.0) is window
    assert window.after([1.0], math.inf) is window


def test_what_adapts_is_told_by_its_methods():
    assert isinstance(Adaptive(1), AdaptingWindow)
    assert not isinstance(Random(1), AdaptingWindow)
    assert Adaptive(1).with_state({}) == Adaptive(1)
    with pytest.raises(ValueError, match="must not be longer than the unroll, got 6 of 5"):
        Adaptive(6).bounds(5, 0)
