"""`dd_plugin.distiller.compile_choice`: the rule, and the choice that a checkpoint holds."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dd_plugin.distiller.compile_choice import Choice, Measured, faster, next_action, too_short

# A ConvNet of three blocks: some 1,200 operations, 75 s of compiling.
CONVNET = Measured(steps_left=500, seconds=2.0, operations=1200, is_cached=False, has_core=True)


def test_the_runs_of_the_page():
    # 1,000 s of traced steps pay at once; the digits' 60 s do not, but with a filled cache they do.
    assert next_action(CONVNET) == "fill"
    digits = replace(CONVNET, steps_left=300, seconds=0.22)
    assert next_action(digits) == "trace"
    assert next_action(replace(digits, is_cached=True)) == "try"
    # Alone on a core a run stands still meanwhile, so more must be left.
    alone = replace(CONVNET, has_core=False)
    assert next_action(alone) == "try"
    assert next_action(replace(alone, steps_left=200)) == "trace"
    assert next_action(replace(CONVNET, steps_left=200)) == "fill"


def test_short_runs_never_compile():
    for has_core in (False, True):
        short = replace(CONVNET, seconds=20.0, steps_left=4, is_cached=True, has_core=has_core)
        assert next_action(short) == "trace"


measured = st.builds(
    Measured,
    steps_left=st.integers(0, 10**5),
    seconds=st.floats(1e-3, 1e3),
    operations=st.integers(1, 10**5),
    is_cached=st.booleans(),
    has_core=st.booleans(),
)


@given(measured, st.integers(1, 1000))
def test_more_steps_never_speak_against_compiling(facts, more):
    if next_action(facts) != "trace":
        assert next_action(replace(facts, steps_left=facts.steps_left + more)) != "trace"


@given(measured)
def test_a_filled_cache_never_speaks_against_compiling(facts):
    if next_action(facts) != "trace":
        assert next_action(replace(facts, is_cached=True)) == "try"


@given(measured)
def test_nothing_is_started_without_a_core_or_with_a_filled_cache(facts):
    if facts.is_cached or not facts.has_core:
        assert next_action(facts) != "fill"


@pytest.mark.parametrize(
    ("compiled", "way"), [(0.5, "inductor"), (0.95, "inductor"), (0.96, "trace"), (2.0, "trace")]
)
def test_the_faster_way_is_taken_if_it_is_clearly_faster(compiled, way):
    choice = faster(7, 100, traced=1.0, compiled=compiled, processor="p")
    assert (choice.compile, choice.from_step, choice.processor) == (way, 7, "p")


def test_a_choice_goes_through_a_checkpoint():
    choice = faster(7, 100, traced=1.0, compiled=0.5, processor="p")
    assert Choice.from_json(json.loads(json.dumps(choice.to_json()))) == choice
    assert Choice.from_json(None) is None
    assert [choice.at(step) for step in (0, 6, 7, 8)] == ["trace", "trace", "inductor", "inductor"]
    assert choice.line().startswith("steps are compiled by inductor from step 8 on: ")


def test_a_longer_run_has_to_obey_a_compiled_choice_only():
    compiled = faster(7, 100, traced=1.0, compiled=0.5, processor="p")
    short = replace(compiled, compile="trace", reason=too_short(CONVNET))
    assert compiled.binds(100)
    assert compiled.binds(1000)
    assert short.binds(100)
    assert not short.binds(1000)
    assert short.line() == "steps are traced: compiling does not pay for the remaining 1000 s"
