"""What `Distiller.save_model` writes, and what it leaves alone."""

import json

import pytest

from dd_plugin import DistilledDataset
from tests.distiller.toy import toy_distiller


@pytest.fixture
def distiller(tmp_path):
    made = toy_distiller(tmp_path / "run", max_steps=1)
    made.train()
    return made


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["README.md", "log.jsonl", "results.md", "curve.png"])
def test_files_of_the_user_s_in_another_folder_are_not_replaced(distiller, tmp_path, name):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / name).write_text("mine")
    before = files_of(mine)
    with pytest.raises(ValueError, match=rf"`output_dir` must .*{name}.*; choose another folder"):
        distiller.save_model(mine)
    assert files_of(mine) == before


def test_another_folder_is_written_again_and_again(distiller, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    distiller.compare()
    distiller.save_model(other)
    assert (other / "results.md").exists()
    distiller.results.clear()
    distiller.save_model(str(other))
    assert not (other / "results.md").exists()
    assert (other / "notes.txt").read_text() == "mine"
    DistilledDataset.from_pretrained(other)


def test_the_run_s_own_folder_was_looked_at_when_it_began(distiller, tmp_path, monkeypatch):
    own = tmp_path / "run"
    (own / "log.jsonl").write_text("of the run")
    monkeypatch.chdir(tmp_path)
    distiller.save_model("run")  # the same folder by another name
    lines = (own / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == distiller.state.log_history
