"""`dd_plugin.cli.noted_images`: `evaluate` finds the images that the run was given."""

import shutil

import pytest

from dd_plugin.cli import main
from dd_plugin.cli.errors import CommandError
from dd_plugin.cli.noted_images import note_images, noted_images
from dd_plugin.distiller.local_note import NOTE, LocalNote
from dd_plugin.hub.reading import read_record
from tests.evaluation.short import shorten


@pytest.fixture(autouse=True)
def _not_for_long(monkeypatch):
    shorten(monkeypatch, 20)


@pytest.fixture
def images(tmp_path, real):
    return shutil.copytree(real, tmp_path / "images")


def evaluate(run, *words):
    return main(["evaluate", str(run), "--networks=1", "--no_full_data", *words])


def test_a_set_is_evaluated_on_the_images_of_its_run(run, images, capsys):
    LocalNote.of(images).write(run)
    assert evaluate(run) == 0
    printed = capsys.readouterr()
    # Tested on one split, the baselines trained on the other.
    assert "| random real images " in printed.out
    row = read_record(run).evaluations[0]
    assert (row.dataset, row.split, row.images) == (None, "test", 30)
    # The record is published, the note is not.
    assert str(images) not in (run / "recipe.json").read_text()


def test_images_that_are_gone_are_told_with_what_to_do_and_then_remembered(run, images, capsys):
    LocalNote.of(images).write(run)
    moved = images.rename(images.with_name("elsewhere"))
    assert evaluate(run) == 2
    error = capsys.readouterr().err
    assert f"were in {images}, which is not there any more; say where" in error
    assert "with --dataset FOLDER" in error
    assert evaluate(run, f"--dataset={moved}", "--no_baselines") == 0
    assert evaluate(run, "--no_baselines") == 0


def test_other_images_are_not_remembered_in_the_place_of_those_of_the_run(run, images, tmp_path):
    LocalNote.of(images).write(run)
    other = shutil.copytree(images, tmp_path / "other")
    assert evaluate(run, f"--dataset={other}", "--no_baselines") == 0
    assert noted_images(str(run), "test") == str(images)


def test_images_that_do_not_fit_are_not_remembered(run, tmp_path, capsys, images):
    (run / NOTE).unlink(missing_ok=True)
    assert evaluate(run, f"--dataset={images}", "--split=nothing") == 2
    assert not (run / NOTE).exists()


def test_a_set_without_a_note_asks_as_ever(run, capsys):
    (run / NOTE).unlink(missing_ok=True)
    assert evaluate(run) == 2
    assert "`dataset` must be given" in capsys.readouterr().err


def test_a_set_on_the_hub_has_no_note(tmp_path, monkeypatch, images):
    monkeypatch.chdir(tmp_path)
    assert noted_images("me/some-set", "test") is None
    note_images("me/some-set", str(images))
    assert not (tmp_path / "me").exists()


def test_what_is_no_folder_is_not_noted(run):
    (run / NOTE).unlink(missing_ok=True)
    note_images(str(run), "digits")
    assert not (run / NOTE).exists()


def test_each_kind_has_its_place(run, images):
    LocalNote(train=str(images), test=str(images / "gone")).write(run)
    assert noted_images(str(run), "train") == str(images)
    with pytest.raises(CommandError, match="not there any more"):
        noted_images(str(run), "test")
