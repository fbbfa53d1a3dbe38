"""The benchmark of the layer, at toy size: the file and the page it writes, not the figures."""

import json

import pytest

from tests.benchmarks import layers


def toy(tmp_path, *more):
    paths = ["--json", str(tmp_path / "layers.json"), "--page", str(tmp_path / "layers.md")]
    size = ["--image=32", "--batch=2", "--repeats=1", "--seconds=0", "--device=cpu"]
    layers.main([*paths, *size, "--models", "resnet18", "--no-compile", *more])
    report = json.loads((tmp_path / "layers.json").read_text())
    return report, (tmp_path / "layers.md").read_text()


def test_benchmark_writes_its_file_and_its_page(tmp_path):
    report, _ = toy(tmp_path, "--passes", "train")
    assert [case["pass"] for case in report["cases"]] == ["train"]
    # A second run adds its cases to those of the first.
    report, page = toy(tmp_path, "--passes", "eval")
    assert [case["pass"] for case in report["cases"]] == ["train", "eval"]
    for case in report["cases"]:
        assert set(case["seconds"]) == set(layers.VARIANTS)
        for ratio in case["ratios"].values():
            assert all(0 < r["low"] <= r["median"] <= r["high"] for r in ratio.values())
    assert page.count("| resnet18 | train | eager |") == 2  # both clocks
    assert page.count("| resnet18 | eval | eager |") == 2


def test_spread_is_over_the_ratios_of_each_round():
    # Rounds of 1, 2, 3 seconds and a variant that takes 2, 3 and 4 times as long.
    spread = layers.spread([2.0, 6.0, 12.0], [1.0, 2.0, 3.0])
    assert spread == {"median": 3.0, "low": 2.0, "high": 4.0}


def test_measurements_of_another_environment_are_not_mixed(tmp_path):
    path = tmp_path / "layers.json"
    path.write_text(json.dumps({"environment": {"torch": "1.0"}, "cases": []}))
    with pytest.raises(SystemExit, match="another environment"):
        layers.merged(path, {"model": "resnet50", "pass": "train", "compiled": False})


def test_page_keeps_what_is_around_its_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- measurements -->\nold\n<!-- /measurements -->\nbelow\n")
    layers.write_page(page, "new")
    text = page.read_text()
    assert text.startswith("above\n")
    assert text.endswith("below\n")
    assert "new" in text
    assert "old" not in text
