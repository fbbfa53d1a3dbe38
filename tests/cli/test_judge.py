"""`dd-plugin judge`: what it asks of the judge, and where the scores go."""

import json

import pytest

from dd_plugin.cli import main
from dd_plugin.cli.judge import judgement_lines
from dd_plugin.hub.judging import Hearing, JudgeMissingError
from dd_plugin.hub.record import Judgement
from tests.hub.toy import write_toy


def judgement(**changes):
    values = {"judge": "ddranking 0.2.0", "dataset": "CIFAR10", "model": "LeNet", "epochs": 20}
    scores = {"hard_label_recovery": (30.0,), "improvement_over_random": (10.0,)}
    return Judgement(**{**values, **scores, "augmented": (4.0,), "plain": (2.0,), **changes})


@pytest.fixture
def asked(monkeypatch):
    calls = []

    def judged(synthetic, hearing):
        calls.append((len(synthetic.labels), hearing))
        return judgement()

    monkeypatch.setattr("dd_plugin.hub.judging.judged", judged)
    return calls


def test_the_scores_are_printed_and_stored(tmp_path, asked, capsys):
    folder = write_toy(tmp_path / "toy")
    words = ["judge", str(folder), "--dataset", "CIFAR10", "--real_data", str(tmp_path)]
    more = ["--model", "LeNet", "--runs", "2", "--epochs", "20", "--full_data_accuracy", "84.5"]
    assert main([*words, *more, "--device", "cpu"]) == 0
    values = {"model": "LeNet", "runs": 2, "epochs": 20, "full_data": 84.5, "device": "cpu"}
    assert asked == [(4, Hearing(dataset="CIFAR10", real_data=tmp_path, **values))]
    printed = capsys.readouterr().out.splitlines()
    assert printed == judgement_lines(judgement())
    assert printed[:2] == [
        "hard label recovery: +30.0 points (smaller is better)",
        "improvement over random images: +10.0 points",
    ]
    record = json.loads((folder / "recipe.json").read_text())
    assert [Judgement.from_json(one) for one in record["judgements"]] == [judgement()]
    assert "ddranking 0.2.0 on `CIFAR10`" in (folder / "README.md").read_text()
    # Without options it takes what DD-Ranking takes.
    assert main([*words, "--device", "cpu"]) == 0
    assert asked[1][1] == Hearing(dataset="CIFAR10", real_data=tmp_path)


@pytest.mark.parametrize("error", [JudgeMissingError("not there"), ValueError("not there")])
def test_what_is_missing_is_a_line(tmp_path, monkeypatch, capsys, error):
    def judged(synthetic, hearing):
        raise error

    monkeypatch.setattr("dd_plugin.hub.judging.judged", judged)
    folder = write_toy(tmp_path / "toy")
    before = (folder / "recipe.json").read_bytes()
    words = ["judge", str(folder), "--dataset", "CIFAR10", "--real_data", str(tmp_path)]
    assert main([*words, "--device", "cpu"]) == 2
    assert capsys.readouterr().err == "dd-plugin judge: error: not there\n"
    assert (folder / "recipe.json").read_bytes() == before


def test_a_folder_that_changes_meanwhile_gets_no_scores(tmp_path, monkeypatch, capsys):
    folder = write_toy(tmp_path / "toy")

    def judged(synthetic, hearing):
        write_toy(folder, soft_labels=True)
        return judgement()

    monkeypatch.setattr("dd_plugin.hub.judging.judged", judged)
    words = ["judge", str(folder), "--dataset", "CIFAR10", "--real_data", str(tmp_path)]
    assert main([*words, "--device", "cpu"]) == 0
    assert "dd-plugin judge: warning: not written to" in capsys.readouterr().err
    assert "judgements" not in json.loads((folder / "recipe.json").read_text())
