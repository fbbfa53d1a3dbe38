"""The clock of runs that last some seconds."""

from types import SimpleNamespace

import pytest

from tests.benchmarks.by_clock import ByClock


def test_the_rates_fall_with_the_time_and_the_run_ends_with_it():
    times = iter([10.0, 10.0, 12.0, 15.0])
    clock = ByClock(4.0, lambda: next(times))
    group = {"lr": 0.5}
    run = SimpleNamespace(optimizer=SimpleNamespace(param_groups=[group]))
    rates, stopped = [], []
    for phase in (0, 1, 1):
        control = SimpleNamespace(should_training_stop=False)
        state = SimpleNamespace(window={"phase": phase})
        clock.on_step_end(None, state, control, distiller=run)
        rates.append(group["lr"])
        stopped.append(control.should_training_stop)
    assert rates == pytest.approx([0.5, 0.25, 0.0])
    assert stopped == [False, False, True]
    assert clock.phases == {"early": 1, "middle": 2, "late": 0}
