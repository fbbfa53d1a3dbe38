"""What cannot be written at the end of a run: the set is not lost, and pictures cost a warning."""

import errno
import json

import pytest
import torch

from dd_plugin.distiller import SaveError, report, run_folder
from dd_plugin.hub import DistilledDataset
from tests.distiller.toy import toy_distiller


def trained(folder, **options):
    distiller = toy_distiller(folder, **{"max_steps": 2, **options})
    distiller.train()
    return distiller


@pytest.fixture
def disk(monkeypatch):
    """A disk on which folders are full as long as their names are in the set."""
    full, write_set, write_whole = set(), report.write_set, report.write_whole

    def check(path):
        if full & set(path.parts):
            raise OSError(errno.ENOSPC, "No space left on device")

    def guarded_set(folder, *args, **kwargs):
        check(folder)
        write_set(folder, *args, **kwargs)

    def guarded_file(path, content):
        check(path)
        write_whole(path, content)

    monkeypatch.setattr(report, "write_set", guarded_set)
    monkeypatch.setattr(report, "write_whole", guarded_file)
    return full


def test_the_error_names_the_folder_and_the_newest_checkpoint(tmp_path, disk):
    distiller = trained(tmp_path / "out", save_steps=1)
    disk.add("out")
    with pytest.raises(SaveError) as caught:
        distiller.save_model()
    text = str(caught.value)
    assert "\n" not in text
    for part in (str(tmp_path / "out"), "No space left on device", "checkpoint-2", "`resume_from_"):
        assert part in text
    disk.clear()
    # The set is still there to be written.
    assert len(DistilledDataset.from_pretrained(distiller.save_model())) == 3


def test_a_run_without_checkpoints_says_so(tmp_path, disk):
    distiller = trained(tmp_path / "out")
    disk.add("out")
    with pytest.raises(SaveError, match="There is no checkpoint in"):
        distiller.save_model()


def test_the_set_goes_to_the_other_folder(tmp_path, disk, caplog):
    distiller = trained(tmp_path / "out", rescue_dir=str(tmp_path / "rescue"))
    (tmp_path / "rescue" / "out").mkdir()
    (tmp_path / "rescue" / "out" / "notes").write_text("of somebody's")
    disk.add("out")
    place = distiller.save_model()
    assert place == tmp_path / "rescue" / "out-2"
    assert "No space left on device" in caplog.text
    assert str(place) in caplog.text
    rescued = DistilledDataset.from_pretrained(place)
    assert torch.equal(rescued.images, distiller.synthetic.images().detach())
    # Once more, with results: into the same folder.
    distiller.compare()
    assert distiller.save_model() == place
    record = json.loads((place / "recipe.json").read_text())
    assert record["results"]
    # A path of this machine, which is not published.
    assert "rescue_dir" not in record["about"]["config"]
    assert str(tmp_path) not in json.dumps(record)


def test_both_folders_full(tmp_path, disk):
    distiller = trained(tmp_path / "out", rescue_dir=str(tmp_path / "rescue"))
    disk |= {"out", "rescue"}
    with pytest.raises(SaveError, match="nor to `rescue_dir`"):
        distiller.save_model()
    assert list((tmp_path / "rescue").iterdir()) == []


def test_an_unwritable_second_folder_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"`rescue_dir` .* cannot be written"):
        toy_distiller(tmp_path / "out", rescue_dir=str(tmp_path / "file" / "inside"))


def test_it_waits_for_room(tmp_path, disk, monkeypatch):
    distiller = trained(tmp_path / "out", wait_for_room=100)
    disk.add("out")
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        if len(waited) == 3:
            disk.clear()

    monkeypatch.setattr(run_folder.time, "sleep", sleep)
    assert distiller.save_model() == tmp_path / "out"
    assert waited == [run_folder._PAUSE] * 3
    DistilledDataset.from_pretrained(tmp_path / "out")


def test_it_does_not_wait_for_ever(tmp_path, disk, monkeypatch):
    distiller = trained(tmp_path / "out", wait_for_room=12)
    disk.add("out")
    now = [0.0]
    monkeypatch.setattr(run_folder.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(run_folder.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    with pytest.raises(SaveError):
        distiller.save_model()
    assert now[0] == 12
