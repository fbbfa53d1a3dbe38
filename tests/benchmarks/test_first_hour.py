"""The benchmark of the first hour: the folders that it makes, and a toy run of its command."""

import sys

import pytest
from PIL import Image

from tests.benchmarks import first_hour
from tests.benchmarks.measuring import random_images


@pytest.fixture
def cifar10(tmp_path):
    """A folder for `load_dataset` with images of ten classes."""
    folder = tmp_path / "cifar10"
    folder.mkdir()
    random_images(32, count=5000).rename_column("image", "img").to_parquet(folder / "train.parquet")
    return folder


@pytest.mark.parametrize("name", list(first_hour.FOLDERS))
def test_a_folder_has_the_classes_images_and_sizes_of_its_name(cifar10, tmp_path, name):
    classes, each, side, gray = first_hour.FOLDERS[name]
    first_hour.make_folder(name, cifar10, tmp_path / "images")
    folders = sorted((tmp_path / "images").iterdir())
    assert len(folders) == classes
    for folder in folders:
        files = list(folder.iterdir())
        assert len(files) == each
        with Image.open(files[0]) as image:
            assert (image.size, image.mode) == ((side, side), "L" if gray else "RGB")


def test_too_few_images_are_an_error(cifar10, tmp_path, monkeypatch):
    monkeypatch.setitem(first_hour.FOLDERS, "many", (10, 1000, 8, True))
    with pytest.raises(ValueError, match="too few"):
        first_hour.make_folder("many", cifar10, tmp_path / "images")


def test_times_and_silences_are_those_of_the_process(cifar10, monkeypatch):
    script = (
        "import sys, time, pathlib; out = pathlib.Path(sys.argv[1]); out.mkdir(); time.sleep(0.1)\n"
        "(out / 'preview.png').touch(); print('written to it', flush=True); time.sleep(1.2)\n"
        "print('| trained on |', flush=True)"
    )
    monkeypatch.setattr(
        first_hour, "command_of", lambda case, data, out: [sys.executable, "-c", script, str(out)]
    )
    row = first_hour.measure("30 classes of three color images", cifar10)
    assert row["table"] == ["| trained on |"]
    assert row["minutes_to_first_picture"] is not None
    assert row["minutes_to_end_of_run"] < row["minutes_to_end"]
    assert row["longest_silence_seconds"] >= 1.0
    monkeypatch.setattr(
        first_hour, "command_of", lambda *_: [sys.executable, "-c", "raise SystemExit('no')"]
    )
    with pytest.raises(RuntimeError, match=r"failed: no"):
        first_hour.measure("30 classes of three color images", cifar10)


@pytest.mark.parametrize("case", list(first_hour.CASES))
def test_a_case_has_a_command_or_a_script(tmp_path, case):
    command = first_hour.command_of(case, tmp_path / "images", tmp_path / "out")
    assert command[0] == sys.executable
    if command[1] == "-c":
        compile(command[2], case, "exec")
    else:
        assert command[1:4] == ["-m", "dd_plugin", "distill"]
