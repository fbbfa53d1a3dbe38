"""`dd_plugin.hub.copying`: a copy has the same files, in the place of another set or of nothing."""

from pathlib import Path

import pytest

from dd_plugin import DistilledDataset
from tests.hub.sets import head_set
from tests.hub.toy import write_toy

FOREIGN = {
    "README.md": "mine",
    "log.jsonl": "{}",
    "results.md": "mine",
    "data/train-00000-of-00002.parquet": "real",
    "recipe.json": '{"flour": 500}',
}


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_copy_is_the_same_files(distilled, tmp_path):
    target = distilled.save_pretrained(tmp_path / "copy")
    names = {p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file()}
    assert {"recipe.json", "tensors.safetensors", "README.md", "preview.png"} <= names
    for name in names:
        assert (target / name).read_bytes() == (distilled.folder / name).read_bytes()
    with pytest.raises(ValueError, match="is where this set is already"):
        DistilledDataset.from_pretrained(target).save_pretrained(target)


@pytest.mark.parametrize("name", FOREIGN)
def test_a_copy_replaces_nothing_of_the_user_s(distilled, tmp_path, name):
    (tmp_path / "data").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / name).write_text(FOREIGN[name])
    before = files_of(tmp_path)
    with pytest.raises(ValueError, match=rf"`folder` must .*, got '{tmp_path}' .*{name}.*; choose"):
        distilled.save_pretrained(tmp_path)
    assert files_of(tmp_path) == before
    # What has another name is not in the way.
    (tmp_path / name).rename(tmp_path / "mine")
    distilled.save_pretrained(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    DistilledDataset.from_pretrained(tmp_path)


def test_a_copy_replaces_another_set(tmp_path):
    one = DistilledDataset.from_pretrained(write_toy(tmp_path / "one"))
    two = write_toy(tmp_path / "two", soft_labels=True)
    for name in ("curve.png", "results.md", "notes.txt"):
        (two / name).write_text("of the other")
    one.save_pretrained(two)
    assert {**files_of(one.folder), Path("notes.txt"): b"of the other"} == files_of(two)


def test_a_copy_that_finds_no_room_leaves_the_set_that_was_there(distilled, tmp_path, monkeypatch):
    write_toy(tmp_path)
    (tmp_path / "curve.png").write_text("of the other")
    before = files_of(tmp_path)
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        distilled.save_pretrained(tmp_path)
    assert files_of(tmp_path) == before


def test_features_beside_a_set_are_neither_copied_nor_published(tmp_path):
    from dd_plugin.hub.remote.published import published_paths

    folder = head_set(tmp_path / "out")
    (folder / "features").mkdir()
    (folder / "features" / "a.safetensors").write_bytes(b"of the real images")
    assert not [name for name in published_paths(folder) if "features" in name]
    copied = DistilledDataset.from_pretrained(folder).save_pretrained(tmp_path / "copy")
    assert not (copied / "features").exists()
