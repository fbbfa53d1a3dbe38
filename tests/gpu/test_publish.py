"""What is published of several runs: ratios within one run, the last result of each case."""

import json

from tests.gpu import publish
from tests.gpu.plan import cases


def write(folder, code, *rows):
    machine = {"device": "card", "versions": {"torch": "2"}, "code": code}
    lines = [{"about": machine}, *({**row, "device": "card", "code": code} for row in rows)]
    with (folder / "fast.jsonl").open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))


def time(tool, seconds, steps=40):
    case = {"check": "time", "model": "convnet", "steps": steps, "tool": tool}
    return {"case": case, "seconds": seconds, "peak_bytes": 1}


def of(rows, tool):
    (row,) = [row for row in rows if row["case"]["tool"] == tool]
    return row


def test_ratios_are_within_a_run_and_the_last_result_of_a_case_counts(tmp_path):
    eager, traced = time("ours eager", 3.0), time("ours traced", 2.0)
    write(tmp_path, "a", eager, traced, time("higher", 1.0))
    write(tmp_path, "b", time("ours traced", 1.5), time("higher", 3.0))
    late = {"case": time("ours compiled", 0)["case"], "unfinished": "no time"}
    write(tmp_path, "c", late, {"case": eager["case"], "unfinished": "no time"})
    found = publish.results_of(tmp_path)["fast"]
    # 3.0 / 1.0 of run a, though its `higher` is replaced; 1.5 / 3.0 of run b.
    assert of(found["rows"], "ours eager")["ratio_to_higher"] == 3.0
    assert of(found["rows"], "ours traced")["ratio_to_higher"] == 0.5
    assert of(found["rows"], "higher")["seconds"] == 3.0
    assert "unfinished" in of(found["rows"], "ours compiled")
    assert of(found["replaced"], "ours traced")["ratio_to_higher"] == 2.0
    assert len(found["rows"]) == 4
    assert len(found["replaced"]) == 2
    assert len(found["not_run"]) == len(cases("fast", "full")) - 3
    assert late["case"] in found["not_run"]


def test_an_error_is_published_without_places_of_a_machine(tmp_path):
    case = {"check": "work", "model": "convnet"}
    error = "Unsupported: no\n  Hint: none\n\nfrom /somewhere/else.py"
    write(tmp_path, "a", {"case": case, "error": error, "traceback": "/somewhere"})
    (row,) = publish.results_of(tmp_path)["fast"]["rows"]
    assert row["error"] == "Unsupported: no\n  Hint: none"
    assert "somewhere" not in json.dumps(row)
