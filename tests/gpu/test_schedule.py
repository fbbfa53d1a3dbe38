"""Whatever becomes of a case, the others get their result, and nothing that was written is lost."""

import json
import os
import time
from typing import Any

import pytest

from tests.gpu import schedule
from tests.gpu.__main__ import options_of
from tests.gpu.quality import archive_of
from tests.gpu.records import Journal, code_version, key_of, read_lines
from tests.gpu.schedule import Options, Part, Worker, curve_of, fastest_way, furthest_behind

CASES: list[dict[str, Any]] = [
    {"check": name} for name in ("fine", "raises", "exits", "dies", "hangs")
]
CASES += [{"check": "fine", "again": True}]


@pytest.fixture
def options(tmp_path, monkeypatch):
    monkeypatch.setattr(Worker, "module", "tests.gpu.faulty_worker")
    return Options(out=tmp_path, device="cpu", size="toy")


def run_part(options, monkeypatch, cases, seconds=300.0, limit=60.0):
    monkeypatch.setattr(schedule, "cases", lambda part, size: cases)
    monkeypatch.setattr(schedule, "limit_of", lambda case: limit)
    part = Part("right", options, time.monotonic() + 300)
    try:
        part.worker()  # however long the machine takes to start it
        part.until = time.monotonic() + seconds
        part.run_cases()
    finally:
        part.stop()
    return part.journal


def rows_in(path):
    return [line for line in read_lines(path) if "case" in line]


def test_every_kind_of_failure_is_a_row_and_the_next_case_runs(options, monkeypatch):
    journal = run_part(options, monkeypatch, CASES, limit=8.0)
    rows = [journal.rows[key_of(case)] for case in CASES]
    assert [row.get("error", "")[:17] for row in rows] == [
        "",
        "ZeroDivisionError",
        "SystemExit: 3",
        "RuntimeError: the",
        "given up after 8 ",
        "",
    ]
    assert "status -11" in rows[3]["error"]
    assert "raise ZeroDivisionError" in rows[1]["traceback"]
    assert rows[0]["device_and_size"] == ["cpu", "toy"]
    assert rows[5]["process"] != rows[0]["process"]
    assert all(row["device"] == "cpu" and row["code"] == code_version() for row in rows)
    # The process that hung is gone.
    with pytest.raises(ProcessLookupError):
        os.kill(rows[0]["process"], 0)
    # What has a result is not tried again; an error is, once the code has changed.
    before = rows_in(options.out / "right.jsonl")
    run_part(options, monkeypatch, CASES)
    assert rows_in(options.out / "right.jsonl") == before
    monkeypatch.setattr(schedule, "code_version", lambda: "other")
    journal = run_part(options, monkeypatch, CASES[:2])
    assert journal.rows[key_of(CASES[0])]["code"] == code_version()
    assert journal.rows[key_of(CASES[1])]["code"] == "other"


def test_a_part_whose_time_is_over_leaves_the_case_for_later(options, monkeypatch):
    journal = run_part(options, monkeypatch, [CASES[0], CASES[4], CASES[5]], seconds=5.0)
    assert "unfinished" in journal.rows[key_of(CASES[4])]
    assert key_of(CASES[5]) not in journal.rows
    assert not journal.is_done(CASES[4], code_version())
    assert journal.is_done(CASES[0], code_version())


def test_a_line_that_was_cut_off_costs_that_line_only(tmp_path):
    journal = Journal(tmp_path / "right.jsonl")
    for number in range(3):
        journal.add({"case": {"number": number}, "value": number})
    text = journal.path.read_text()
    journal.path.write_text(text[: text.rindex("{") + 5])
    again = Journal(journal.path)
    assert [row["value"] for row in again.rows.values()] == [0, 1]
    again.add({"case": {"number": 2}, "value": 5})
    again.add({"case": {"number": 0}, "value": 7})
    assert sorted(r["value"] for r in Journal(journal.path).rows.values()) == [1, 5, 7]
    assert len(read_lines(journal.path)) == 4


def test_an_earlier_run_is_taken_over_but_does_not_replace_what_is_there(tmp_path, monkeypatch):
    earlier, out = tmp_path / "earlier", tmp_path / "out"
    earlier.mkdir()
    Journal(earlier / "right.jsonl").add({"case": CASES[0], "value": 1})
    Journal(earlier / "good.jsonl").add({"case": {"recipe": "x"}, "value": 1})
    (earlier / archive_of("at_batchnorm")).write_bytes(b"old")
    out.mkdir()
    (out / archive_of("at_batchnorm")).write_bytes(b"new")
    monkeypatch.setattr(schedule, "cases", lambda part, size: [])
    schedule.run(
        Options(out=out, device="cpu", size="toy", resume=earlier, parts=("right", "fast"))
    )
    assert json.loads((out / "right.jsonl").read_text())["value"] == 1
    assert (out / "good.jsonl").exists()
    assert (out / archive_of("at_batchnorm")).read_bytes() == b"new"


def row(recipe, step, accuracy):
    case = {"recipe": recipe, "step": step}
    return {"case": case, "step": step, "accuracy_mean": accuracy, "seconds": step}


def test_the_recipe_that_is_furthest_behind_its_published_accuracy_is_next(tmp_path):
    journal = Journal(tmp_path / "good.jsonl")
    order = []
    for accuracy in (0.5, 0.6, 0.65, 0.66, 0.66, 0.1, 0.65):
        order.append(furthest_behind(journal, set()))
        journal.add(row(order[-1], 10, accuracy))
    # Untried ones by what was published: 72.4, 72.4, then 69.4.
    assert order == [
        "at_batchnorm",
        "at_instancenorm",
        "groups_batchnorm",
        "halves_batchnorm",
        "long_batchnorm",
        "rat_batchnorm",
        "rat_instancenorm",
    ]
    assert furthest_behind(journal, set()) == "rat_batchnorm"
    assert furthest_behind(journal, {"rat_batchnorm"}) == "at_batchnorm"
    # The last accuracy counts, by steps.
    journal.add(row("rat_batchnorm", 30, 0.69))
    journal.add(row("rat_batchnorm", 20, 0.2))
    assert furthest_behind(journal, set()) == "at_batchnorm"
    assert [r["step"] for r in curve_of(journal, "rat_batchnorm")] == [10, 20, 30]


def test_the_way_that_was_fastest_for_the_longest_unroll_is_taken(tmp_path):
    journal = Journal(tmp_path / "fast.jsonl")
    assert fastest_way(journal) == "trace"
    measured = [
        ("ours traced", 10, 1.0),
        ("ours compiled", 10, 2.0),
        ("ours compiled", 40, 2.0),
        ("ours traced", 40, 3.0),
        ("higher", 40, 0.1),
    ]
    for tool, steps, seconds in measured:
        case = {"check": "time", "model": "convnet", "steps": steps, "tool": tool}
        journal.add({"case": case, "seconds": seconds})
    assert fastest_way(journal) == "inductor"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "right,wrong"], "got 'wrong'"),
        (["--data", "nowhere"], "there is no file nowhere"),
        (["--resume", "nowhere"], "there is no folder nowhere"),
        (["--minutes", "0"], "must be positive"),
        (["--size", "toy"], "no GPU was found"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(arguments, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        options_of(["--out", str(tmp_path), *arguments])
    assert said in capsys.readouterr().err
