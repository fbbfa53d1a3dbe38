"""`tests.benchmarks.compile_choice`: a run is measured for a while, and the rest computed."""

import pytest

from tests.benchmarks import compile_choice


def test_the_rest_of_a_run_is_computed_from_its_last_steps(monkeypatch):
    toy = {"size": 8, "max_steps": 1000, "inner_steps": 2, "real_batch_size": 8}
    toy["model_args"] = {"width": 4, "depth": 2, "norm_layer": "batchnorm2d"}
    monkeypatch.setitem(compile_choice.CASES, "toy", toy)
    row = compile_choice.measure({"case": "toy", "compile": "no"})
    assert row["measured_steps"] == 6
    assert row["choice"] is None
    rest = row["seconds"] - row["measured_seconds"]
    assert rest == pytest.approx((1000 - 6) * row["seconds_per_step"])
