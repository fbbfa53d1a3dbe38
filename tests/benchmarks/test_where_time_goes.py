"""The profile of an outer step, at toy size: the file it writes, and that its cuts are the step."""

import json

import pytest

from tests.benchmarks import where_time_goes


@pytest.mark.slow
def test_profile_writes_its_file_and_goes_on(tmp_path, monkeypatch):
    toy = {"model_args": {"width": 2, "depth": 2, "norm_layer": "batchnorm2d"}, "inner_steps": 2}
    monkeypatch.setattr(where_time_goes, "SCALES", {"toy": toy})
    measured = []

    def in_this_process(module, case, threads):
        measured.append(case["scale"])
        return where_time_goes.measure(case)

    monkeypatch.setattr(where_time_goes, "in_child", in_this_process)
    path = tmp_path / "profile.json"
    for _ in range(2):
        where_time_goes.main(["--json", str(path), "--repeats", "1"])
    assert measured == ["toy"]
    rows = json.loads(path.read_text())["rows"]
    for table in ("time", "operations"):
        assert sum(r["share"] for r in rows if r["table"] == table) == pytest.approx(1)
    calls = {(r["group"], r["item"]): r["calls"] for r in rows if r["table"] == "time"}
    assert calls["backward", "sweep"] == calls["inner run", "loss and gradient"] == 2
    assert calls["rest", "trainer"] == calls["outer optimizer", "Adam"] == 1
    removed = {r["item"] for r in rows if r["table"] == "removed"}
    assert removed == set(where_time_goes.PUT_BACK)


def test_what_is_put_back_is_there():
    for changes in where_time_goes.PUT_BACK.values():
        assert [name for module, name, _ in changes if not hasattr(module, name)] == []


@pytest.mark.slow
def test_what_is_put_back_takes_the_same_steps(tmp_path):
    toy = {"model_args": {"width": 2, "depth": 2, "norm_layer": "batchnorm2d"}, "inner_steps": 2}
    losses = {}
    for name in ("", *where_time_goes.PUT_BACK):
        with where_time_goes.put_back(name):
            distiller = where_time_goes.make(str(tmp_path / (name or "now")), toy)
            losses[name] = [distiller.training_step() for _ in range(2)]
        assert distiller.architectures.problems[0].compile == "trace"
    for name, found in losses.items():
        assert found == pytest.approx(losses[""], rel=1e-4), name
