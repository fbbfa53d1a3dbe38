"""The benchmark of a step of ordinary training, at toy size."""

import json

from torch import nn

from tests.benchmarks import ordinary_step


def test_each_way_is_a_multiple_of_the_first(tmp_path, monkeypatch):
    def tiny():
        return nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10))

    monkeypatch.setitem(ordinary_step.NETWORKS, "tiny", (tiny, (3, 8, 8), 10))
    monkeypatch.setattr(ordinary_step, "keep_freed_memory", bool)
    path = tmp_path / "step.json"
    ordinary_step.main(["--json", str(path), "--networks", "tiny", "--rounds", "2"])
    (row,) = json.loads(path.read_text())["rows"]
    assert list(row["ratios"]) == [*ordinary_step.ADAMW, *ordinary_step.ENGINE]
    assert row["ratios"]["as it is"] == 1
    assert all(ratio > 0 for ratio in row["ratios"].values())
