"""When a slice of a recipe evaluates, saves and ends."""

import time
from types import SimpleNamespace

import pytest

from tests.gpu.quality import Watch


@pytest.mark.parametrize(
    ("step", "left", "evaluates", "stops"),
    [(3, 1000.0, False, False), (10, 1000.0, True, False), (3, 1.0, True, True)],
    ids=["on the way", "at the last step", "when the time is over"],
)
def test_a_slice_ends_with_a_row_whichever_end_it_meets(step, left, evaluates, stops):
    watch = Watch(0.0, time.monotonic() + left, 100.0, keep=lambda: None, emit=lambda row: None)
    state = SimpleNamespace(global_step=step, max_steps=10)
    control = SimpleNamespace(should_evaluate=False, should_save=False, should_training_stop=False)
    watch.on_train_begin(None, state, control)
    watch.on_step_end(None, state, control)
    assert (control.should_evaluate, control.should_save) == (evaluates, evaluates)
    assert control.should_training_stop is stops
