"""`dd_plugin.distiller.layout_choice`: when both memory layouts are timed, and which is taken."""

from types import SimpleNamespace

from dd_plugin.distiller.compile_choice import Measured
from dd_plugin.distiller.layout_choice import (
    LayoutChoice,
    faster,
    is_tried,
    may_pay,
)
from dd_plugin.distiller.way_trial import Trial


def config_of(**settings):
    defaults = {
        "memory_format": "auto",
        "batch_networks": False,
        "compile": "auto",
        "mixed_precision": "no",
    }
    return SimpleNamespace(**{**defaults, **settings})


def problem_of(convolutions):
    return SimpleNamespace(model=SimpleNamespace(convolutions=convolutions))


def measured(steps, seconds, operations=500):
    return Measured(steps, seconds, operations, is_cached=False, has_core=True)


def test_runs_of_two_minutes_try_it_where_it_pays():
    assert not may_pay(measured(100, 1.0))
    assert may_pay(measured(130, 1.0))
    # Twelve long steps are over before a trial pays.
    assert not may_pay(measured(12, 60.0))
    assert may_pay(measured(60, 60.0))
    # Tracing a large network takes longer.
    assert not may_pay(measured(130, 1.0, operations=10_000))


def test_it_is_tried_for_several_convolutions_by_itself():
    both = [problem_of(2), problem_of(20)]
    assert is_tried(config_of(), both)
    assert not is_tried(config_of(), [*both, problem_of(1)])
    assert not is_tried(config_of(batch_networks=True), both)
    for given in ("contiguous", "channels_last"):
        assert not is_tried(config_of(memory_format=given), both)


def test_a_small_gain_may_be_noise():
    assert faster(3, 10, Trial(1.0, 0.94)).channels_last
    assert not faster(3, 10, Trial(1.0, 0.97)).channels_last
    reason = "a step takes 0.5 s with channels last and 1 s without"
    assert faster(3, 10, Trial(1.0, 0.5)) == LayoutChoice(True, 3, 10, reason)


def test_a_choice_comes_back_and_binds():
    choice = LayoutChoice(True, 3, 10, "why")
    assert LayoutChoice.from_json(choice.to_json()) == choice
    assert LayoutChoice.from_json(None) is None
    assert [choice.at(step) for step in (2, 3, 4)] == [False, True, True]
    assert choice.binds(1000)
    assert choice.line() == "channels last from step 4 on: why"
    stays = LayoutChoice(False, 3, 10, "why")
    assert not stays.at(5)
    assert stays.binds(10)
    assert not stays.binds(11)
    assert stays.line() == "tensors stay contiguous: why"
