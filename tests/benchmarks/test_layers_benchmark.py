"""The benchmark of the layer, at toy size: the file it writes, not the figures."""

import json

import pytest

from tests.benchmarks import layers


def toy(tmp_path, *more):
    paths = ["--json", str(tmp_path / "layers.json")]
    size = ["--image=32", "--batch=2", "--repeats=1", "--seconds=0", "--device=cpu"]
    layers.main([*paths, *size, "--models", "resnet18", "--no-compile", *more])
    return json.loads((tmp_path / "layers.json").read_text())


def test_benchmark_writes_its_file(tmp_path):
    report = toy(tmp_path, "--passes", "train")
    assert [case["pass"] for case in report["cases"]] == ["train"]
    # A second run adds its cases to those of the first.
    report = toy(tmp_path, "--passes", "eval")
    assert [case["pass"] for case in report["cases"]] == ["train", "eval"]
    for case in report["cases"]:
        assert set(case["seconds"]) == set(layers.VARIANTS)
        for ratio in case["ratios"].values():
            assert all(0 < r["low"] <= r["median"] <= r["high"] for r in ratio.values())


def test_spread_is_over_the_ratios_of_each_round():
    # Rounds of 1, 2, 3 seconds and a variant that takes 2, 3 and 4 times as long.
    spread = layers.spread([2.0, 6.0, 12.0], [1.0, 2.0, 3.0])
    assert spread == {"median": 3.0, "low": 2.0, "high": 4.0}


def test_measurements_of_another_environment_are_not_mixed(tmp_path):
    path = tmp_path / "layers.json"
    path.write_text(json.dumps({"environment": {"torch": "1.0"}, "cases": []}))
    with pytest.raises(SystemExit, match="another environment"):
        layers.merged(path, {"model": "resnet50", "pass": "train", "compiled": False})
