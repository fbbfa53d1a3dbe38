"""The benchmark of the closing comparison: what its seconds are made of, and a toy run."""

import pytest

from dd_plugin.evaluation import baselines, comparison
from tests.benchmarks import closing_comparison as benchmark


def test_a_whole_run_is_its_parts_times_their_number():
    run = {"first": 10.0, "steps": 5, "evaluations": 6, "networks": 2}
    values = {"step": 2.0, "distilled": 1.0}
    values |= {"random steps": 100, "random step": 0.01, "random test": 0.5}
    values |= {"all steps": 400, "all step": 0.02, "all test": 0.5}
    slow = {name: 100 * value for name, value in values.items() if "steps" not in name}
    fast = dict.fromkeys(slow, 0.0)
    rounds = [values, {**values, **slow}, {**values, **fast}]
    whole = benchmark.whole_run(run, rounds)
    # A first step of 10 s and four of 2; six evaluations; two networks of each kind.
    assert (whole["steps"], whole["evaluations"]) == (18.0, 6.0)
    assert (whole["distilled"], whole["random"], whole["all"]) == (2.0, 3.0, 17.0)
    assert (whole["closing"], whole["share"]) == (22.0, 22 / 46)


def test_ordinary_training_stops_early_and_says_how_long_it_would_be(tmp_path, monkeypatch):
    for module, name in ((baselines, "train_on_real"), (comparison, "accuracy_of_module")):
        monkeypatch.setattr(module, name, getattr(module, name))
    settings = {"model_args": {"width": 4, "norm_layer": "batchnorm2d"}, "compile": "no"}
    settings |= {"inner_steps": 2}
    case = {"settings": settings, "images": [8, 150, 30, 3]}
    distiller = benchmark.distiller_of(case, str(tmp_path))
    ordinary = benchmark._Ordinary(2)
    for _ in range(2):
        values = benchmark.measured(distiller, ordinary, 1)
        # Three images, and 64 of 150 in each of three steps of a pass.
        assert (values["random steps"], values["all steps"]) == (200, 200)
        assert all(value > 0 for value in values.values())


def test_the_other_checkout_must_be_named(capsys):
    with pytest.raises(SystemExit):
        benchmark.main([])
    assert "--before" in capsys.readouterr().err
