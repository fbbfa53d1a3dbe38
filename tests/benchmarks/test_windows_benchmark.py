"""The benchmark of windows: a toy run of its command, and the clock of a run."""

import json
from types import SimpleNamespace

import pytest

from tests.benchmarks import windows


def test_the_rates_fall_with_the_time_and_the_run_ends_with_it():
    times = iter([10.0, 10.0, 12.0, 15.0])
    clock = windows.ByClock(4.0, lambda: next(times))
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


def test_runs_that_are_in_the_file_are_not_made_again(tmp_path, capsys, monkeypatch):
    pytest.importorskip("sklearn", reason="the digits come with the extra demo")
    size = {"seconds": 0.01, "inner_steps": 3, "window_length": 2, "width": 4, "depth": 1}
    size |= {"real_batch_size": 20, "networks": 1}
    path = tmp_path / "windows.json"
    words = ["digits", "--json", str(path), "--seeds", "0", "--compile", "no"]
    words += [word for name, value in size.items() for word in (f"--{name}", str(value))]
    windows.main(words)
    rows = json.loads(path.read_text())["rows"]
    assert [row["window"] for row in rows] == ["random", "adaptive"]
    assert sum(rows[1]["phases"].values()) == rows[1]["outer_steps"] >= 2
    assert rows[0]["phases"] is None
    monkeypatch.setattr(windows, "measure", lambda *_: pytest.fail("made again"))
    windows.main(words)
