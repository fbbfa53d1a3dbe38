"""`dd-plugin export`: a distilled set in the form of another tool."""

import pytest

from dd_plugin.cli import main
from tests.hub.toy import change_record, write_toy


@pytest.fixture
def run(tmp_path):
    return write_toy(tmp_path / "toy")


def test_export(run, tmp_path, capsys):
    assert main(["export", str(run), str(tmp_path / "images")]) == 0
    assert len(list((tmp_path / "images").rglob("*.png"))) == 4
    assert main(["export", str(run), str(tmp_path / "ranking"), "--format", "dd_ranking"]) == 0
    assert (tmp_path / "ranking" / "images.pt").exists()
    assert main(["export", str(run), str(tmp_path / "x"), "--dataset", "CIFAR10"]) == 2
    assert main(["export", str(run), str(tmp_path / "images")]) == 2
    printed = capsys.readouterr().err
    assert "dd-plugin export: error:" in printed
    assert "warning" not in printed


def test_export_says_that_a_step_size_is_not_of_sgd(run, tmp_path, capsys):
    change_record(run, lambda record: record["recipe"].update(optimizer="adam"))
    words = ["export", str(run), str(tmp_path / "ranking"), "--format", "dd_ranking"]
    assert main(words) == 0
    line = "dd-plugin export: warning: lr.pt must be a step size of SGD for DD-Ranking, got one of"
    assert f"{line} adam" in capsys.readouterr().err
