"""The benchmark of several networks, at toy size: the file it writes."""

import json

from tests.benchmarks import ensembles


def test_benchmark_writes_its_file(tmp_path, monkeypatch):
    toy = {"width": 2, "images": 3, "channels": 1, "side": 8, "outer": 4, "steps": 2}
    monkeypatch.setattr(ensembles, "SIZES", {"small": toy, "large": {**toy, "steps": 1}})

    def in_this_process(arguments):
        result = tmp_path / "case.json"
        ensembles.main([*arguments, "--case", str(result)])
        return json.loads(result.read_text())

    monkeypatch.setattr(ensembles, "measure_in_child", in_this_process)
    files = ["--json", str(tmp_path / "e.json")]
    size = ["--repeats=1", "--seconds=0", "--device=cpu", "--threads=0", "--no-compile"]
    ensembles.main([*files, *size, "--networks", "2", "--sizes", "large"])
    # A second run adds its cases to those of the first.
    ensembles.main([*files, *size, "--networks", "2", "3", "--sizes", "small"])
    cases = json.loads((tmp_path / "e.json").read_text())["cases"]
    assert [(case["size"], case["networks"]) for case in cases] == [
        ("small", 2),
        ("small", 3),
        ("large", 2),
    ]
    for case in cases:
        assert case["rounds"] == 1
        assert case["ratio"]["median"] == case["seconds"]["batched"] / case["seconds"]["sequential"]
