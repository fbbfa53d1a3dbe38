"""`dd_plugin.distiller.local_note`: where the images of a run are, for this machine alone."""

import logging

import pytest

from dd_plugin.distiller import Distiller
from dd_plugin.distiller.local_note import NOTE, LocalNote
from dd_plugin.hub import DistilledDataset
from dd_plugin.hub.remote.published import published_paths
from tests.distiller.toy import toy_config, toy_dataset, toy_distiller


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def test_a_folder_is_noted_and_found_again(tmp_path, photos, monkeypatch):
    monkeypatch.chdir(tmp_path)
    LocalNote.of("photos").write(tmp_path)
    assert LocalNote.in_folder(tmp_path) == LocalNote(str(photos), str(photos))
    other = LocalNote.of(photos, object())
    assert other == LocalNote(str(photos), None)


@pytest.mark.parametrize("data", ["digits", "me/photos", "", None, object(), {"train": 1}])
def test_nothing_is_noted_of_what_is_no_folder(tmp_path, photos, data):
    LocalNote.of(photos).write(tmp_path)
    LocalNote.of(data).write(tmp_path)
    assert not (tmp_path / NOTE).exists()


def test_images_that_were_moved_together_with_the_run_are_found(tmp_path, photos):
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    LocalNote.of(photos).write(run)
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("photos", "runs"):
        (tmp_path / name).rename(moved / name)
    assert LocalNote.in_folder(moved / "runs" / "one").train == str(moved / "photos")
    (moved / "photos").rmdir()
    assert LocalNote.in_folder(moved / "runs" / "one").train == str(photos)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"train": 3}', '{"train": "photos"}'])
def test_a_damaged_note_is_none(tmp_path, text):
    (tmp_path / NOTE).write_text(text)
    assert LocalNote.in_folder(tmp_path) == LocalNote()


def test_a_note_that_cannot_be_written_ends_no_run(tmp_path, photos, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        LocalNote.of(photos).write(tmp_path / "file")
    assert "could not be noted" in caplog.text


def test_a_run_notes_it_and_what_is_published_or_copied_has_none(tmp_path):
    toy_dataset().save_to_disk(tmp_path / "images")
    config = toy_config(tmp_path / "run", max_steps=1, inner_steps=1)
    distiller = Distiller(None, config, tmp_path / "images", toy_dataset(30, seed=1))
    distiller.train()
    assert LocalNote.in_folder(tmp_path / "run").test is None
    assert LocalNote.in_folder(tmp_path / "run").train == str(tmp_path / "images")
    folder = distiller.save_model()
    assert (folder / NOTE).exists()
    assert NOTE not in published_paths(folder)
    assert str(tmp_path) not in "".join(
        path.read_text("utf-8")
        for path in published_paths(folder).values()
        if path.suffix == ".json"
    )
    DistilledDataset.from_pretrained(folder).save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy" / NOTE).exists()
    distiller.save_model(tmp_path / "other")
    assert not (tmp_path / "other" / NOTE).exists()


def test_the_note_follows_the_set_to_another_disk(tmp_path, monkeypatch):
    images = tmp_path / "images"
    images.mkdir()
    rescue = str(tmp_path / "rescue")
    distiller = toy_distiller(tmp_path / "run", max_steps=1, inner_steps=1, rescue_dir=rescue)
    distiller._files._note = LocalNote.of(images)
    distiller.train()
    write = distiller._files._write

    def full(action, folder):
        if folder == tmp_path / "run":
            raise OSError("full")
        write(action, folder)

    monkeypatch.setattr(distiller._files, "_write", full)
    assert LocalNote.in_folder(distiller.save_model()).train == str(images)
    assert distiller.save_model().parent == tmp_path / "rescue"
