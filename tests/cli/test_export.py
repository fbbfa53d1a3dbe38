"""`dd-plugin export`: a distilled set in the form of another tool."""

import pytest

from dd_plugin import DistilledDataset
from dd_plugin.cli import main
from tests.distiller.toy import toy_distiller
from tests.hub.toy import change_record, write_toy
from tests.pins.runs import KEPT


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


def test_a_checkpoint_becomes_a_set(tmp_path, capsys):
    toy_distiller(tmp_path / "run", max_steps=2, save_steps=1).train()
    checkpoint = str(tmp_path / "run" / "checkpoint-1")
    assert main(["export", checkpoint, str(tmp_path / "set")]) == 0
    assert "3 images written to" in capsys.readouterr().out
    exported = DistilledDataset.from_pretrained(tmp_path / "set")
    assert exported.record["about"]["outer_steps"] == 1
    # And once more as any other set is exported.
    for source, name in ((checkpoint, "a"), (str(tmp_path / "set"), "b")):
        assert main(["export", source, str(tmp_path / name), "--format", "image_folder"]) == 0
    first, second = (sorted((tmp_path / name).rglob("*.png")) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert main(["export", checkpoint, str(tmp_path / "c"), "--format", "dd_ranking"]) == 0
    # What is there stays.
    assert main(["export", checkpoint, str(tmp_path / "a")]) == 2
    assert "must be new or empty" in capsys.readouterr().err


def test_a_set_is_copied(run, tmp_path):
    assert main(["export", str(run), str(tmp_path / "copy"), "--format", "set"]) == 0
    assert len(DistilledDataset.from_pretrained(tmp_path / "copy")) == 4


def test_a_checkpoint_of_an_earlier_version_is_told(tmp_path, capsys):
    assert main(["export", str(KEPT / "checkpoint-2"), str(tmp_path / "set")]) == 2
    assert "is a checkpoint of an earlier version" in capsys.readouterr().err
