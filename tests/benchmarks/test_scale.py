"""The benchmark of scale, at toy size: its file, and that it goes on where it stopped."""

import json

import pytest

from tests.benchmarks import scale

TOY = {"image": [8, 1], "width": 2, "images_per_class": 1, "real_batch_size": 10}


@pytest.mark.slow
def test_scale_writes_its_file_and_goes_on(tmp_path, monkeypatch):
    sizes = [
        {**TOY, "series": "unroll", "inner_steps": steps, "storage": storage}
        for steps, storage in ((9, "device"), (18, "device"), (9, "recompute"))
    ] + [{**TOY, "series": "resolution", "inner_steps": 2}]
    monkeypatch.setattr(scale, "SIZES", sizes)

    def in_this_process(module, case, threads, environment):
        pages.append(environment["THP_MEM_ALLOC_ENABLE"])
        return {**scale.run_size(case), "seconds": 2.0 - int(pages[-1])}

    pages = []
    monkeypatch.setattr(scale, "in_child", in_this_process)
    monkeypatch.setattr(scale, "inner_steps_per_second", lambda processes, steps: 3.0 * processes)
    path = tmp_path / "scale.json"
    scale.main(["--json", str(path)])
    rows = json.loads(path.read_text())["rows"]
    first, second, third = rows[:3]
    # A state at steps 0, 8 (and 16) and a gradient of every step, each of the bytes of the weights,
    # beside statistics; then the states at 0, 3 and 6.
    weights = first["weight_bytes"]
    assert 11 * weights < first["trajectory_bytes"] < 14 * weights
    assert 21 * weights < second["trajectory_bytes"] < 26 * weights
    assert 3 * weights <= third["trajectory_bytes"] < 4 * weights
    # With large pages; then with and without in turns.
    assert pages == list("111" * 4 + "100110")
    assert all(row["peaks"][0] <= row["peak_bytes"] <= row["peaks"][1] for row in rows[:4])
    assert [rows[4][key] for key in ("seconds", "seconds_without", "ratio")] == [1.0, 2.0, 0.5]
    assert rows[-1]["processes"] == 2
    assert rows[-1]["ratio_to_one"] == 2.0
    monkeypatch.setattr(scale, "in_child", None)
    monkeypatch.setattr(scale, "inner_steps_per_second", None)
    scale.main(["--json", str(path)])
    assert json.loads(path.read_text())["rows"] == rows
