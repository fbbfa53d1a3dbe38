"""The benchmark of windows: a toy run of its command."""

import json

import pytest

from tests.benchmarks import windows


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
