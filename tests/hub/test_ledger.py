"""Rows of evaluations, where somebody else is writing at the same time."""

import json
import os
import subprocess
import sys
import threading

import pytest

from dd_plugin import files
from dd_plugin.files import locked
from dd_plugin.hub.ledger import add_judgement, add_to_file, add_to_record, rows_in
from dd_plugin.hub.reading import read_record, read_set
from dd_plugin.hub.record import Evaluation, Judgement
from tests.hub.toy import change_record, write_toy
from tests.repository import ROOT


def row(model, mean=0.5):
    how = {"protocol": "standard", "pixels": "exact", "dataset": "digits", "split": "test"}
    row = {"model": model, "trained_on": "a", **how, "mean": mean, "std": 0, "accuracies": [mean]}
    return Evaluation.from_json(row)


def record_in(folder):
    return json.loads((folder / "recipe.json").read_text())


def models(rows):
    return [row.model for row in rows]


def test_rows_are_added_and_measured_again(tmp_path):
    write_toy(tmp_path)
    noted = read_record(tmp_path).files
    for one in (row("a"), row("b"), row("a", 0.7)):
        add_to_record(tmp_path, one, noted)
        add_to_file(tmp_path / "rows.json", one)
    assert read_record(tmp_path).evaluations == (row("b"), row("a", 0.7))
    assert rows_in(tmp_path / "rows.json") == [row("b"), row("a", 0.7)]
    assert "| `b` " in (tmp_path / "README.md").read_text()


def test_what_else_is_in_the_record_is_as_it_is_now(tmp_path):
    write_toy(tmp_path)
    noted = read_record(tmp_path).files
    change_record(tmp_path, lambda record: record["about"].update(note="later"))
    add_to_record(tmp_path, row("a"), noted)
    record = read_record(tmp_path)
    assert (record.about.to_json()["note"], models(record.evaluations)) == ("later", ["a"])


def test_a_row_of_a_set_that_was_there_before_is_not_added(tmp_path):
    write_toy(tmp_path)
    noted = read_record(tmp_path).files
    write_toy(tmp_path, soft_labels=True)
    before = (tmp_path / "recipe.json").read_bytes()
    with pytest.raises(ValueError, match="must hold the set that was evaluated, got another one"):
        add_to_record(tmp_path, row("a"), noted)
    assert (tmp_path / "recipe.json").read_bytes() == before


@pytest.mark.parametrize("content", ["{", "{}", "[1]", "\x00"])
def test_a_file_of_something_else_is_not_replaced(tmp_path, content):
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(ValueError, match=r"rows\.json must hold rows of an evaluation, got someth"):
        add_to_file(tmp_path / "rows.json", row("a"))
    assert (tmp_path / "rows.json").read_text() == content


ADDING = """
import json, sys
from pathlib import Path
from dd_plugin.hub.ledger import add_to_file, add_to_record
from dd_plugin.hub.reading import read_record
from tests.hub.test_ledger import row

folder, name = Path(sys.argv[1]), sys.argv[2]
noted = read_record(folder).files
print("ready", flush=True)
sys.stdin.readline()
for i in range(12):
    one = row(f"{name}{i}")
    add_to_record(folder, one, noted)
    add_to_file(folder / "rows.json", one)
"""


def test_two_processes_lose_no_row_of_each_other(tmp_path):
    write_toy(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ADDING, str(tmp_path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=ROOT,
            text=True,
        )
        for name in "ab"
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=100)
        assert process.returncode == 0
    expected = {f"{name}{i}" for name in "ab" for i in range(12)}
    assert set(models(read_record(tmp_path).evaluations)) == expected
    assert set(models(rows_in(tmp_path / "rows.json"))) == expected
    read_set(tmp_path)
    assert not list(tmp_path.rglob("*.partial"))


@pytest.fixture
def holder(tmp_path):
    """Somebody who is adding a row to the set in the folder until he is told to end."""
    write_toy(tmp_path)
    begun, end = threading.Event(), threading.Event()

    def hold():
        with locked(tmp_path / "recipe.json"):
            begun.set()
            end.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert begun.wait(60)
    yield end
    end.set()
    thread.join()


def test_a_new_set_waits_for_a_row_of_the_old_one(tmp_path, holder):
    writer = threading.Thread(target=write_toy, args=(tmp_path,), kwargs={"soft_labels": True})
    writer.start()
    writer.join(1)
    assert writer.is_alive()
    assert not record_in(tmp_path)["images"]["soft_labels"]
    holder.set()
    writer.join(60)
    assert record_in(tmp_path)["images"]["soft_labels"]


def test_and_it_does_not_wait_for_ever(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE", 0.1)
    with pytest.raises(OSError, match="could not be acquired"):
        add_to_record(tmp_path, row("a"), read_record(tmp_path).files)
    write_toy(tmp_path, soft_labels=True)
    assert record_in(tmp_path)["images"]["soft_labels"]


def test_a_judgement_takes_the_place_of_the_same_one(tmp_path):
    write_toy(tmp_path)
    noted = read_record(tmp_path).files
    add_to_record(tmp_path, row("a"), noted)
    values = {"judge": "ddranking 0.2.0", "dataset": "CIFAR10", "hard_label_recovery": (3.0,)}
    for model, score in (("ConvNet-3", 9.0), ("LeNet", 1.0), ("ConvNet-3", 2.0)):
        judgement = Judgement(model=model, improvement_over_random=(score,), **values)
        add_judgement(tmp_path, judgement, noted)
    judgements = read_record(tmp_path).judgements
    found = [(one.model, one.improvement_over_random) for one in judgements]
    assert found == [("LeNet", (1.0,)), ("ConvNet-3", (2.0,))]
    assert models(read_record(tmp_path).evaluations) == ["a"]
    assert "| ddranking 0.2.0 on `CIFAR10` | `LeNet` " in (tmp_path / "README.md").read_text()
    with pytest.raises(ValueError, match="got another one"):
        add_judgement(tmp_path, judgement, {})
