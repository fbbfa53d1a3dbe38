"""Images below a folder: links are followed, and nothing is passed over in silence."""

import os

import pytest
from PIL import Image

from dd_plugin.data.real.columns import DataError
from dd_plugin.data.real.loading import load_real
from tests.data.real.folders import counts_of, draw


def test_links_are_followed(tmp_path):
    draw(tmp_path / "store", "c/1.png", "c/deep/2.png", "one.png")
    draw(tmp_path / "data", "train/bus/1.png", "train/cat/1.png", "test/bus/1.png")
    train = tmp_path / "data" / "train"
    (train / "dog").symlink_to(tmp_path / "store" / "c")
    (train / "elk").symlink_to("dog")  # a link to a link, to the same images
    (train / "bus" / "9.png").symlink_to(tmp_path / "store" / "one.png")
    (tmp_path / "data" / "val").symlink_to("train")
    (tmp_path / "link").symlink_to("data")
    expected = {"bus": 2, "cat": 1, "dog": 2, "elk": 2}
    assert counts_of(load_real(tmp_path / "link", "train")) == expected
    assert counts_of(load_real(tmp_path / "link", "validation")) == expected


def test_links_that_lead_back_end(tmp_path):
    draw(tmp_path, "cat/1.png", "cat/deep/2.png", "dog/1.png")
    (tmp_path / "cat" / "deep" / "again").symlink_to(tmp_path / "cat")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert counts_of(load_real(tmp_path, "train")) == {"cat": 2, "dog": 1}


@pytest.mark.parametrize(("link", "target"), [("elk", "gone"), ("elk", "elk"), ("cat/x", "../y")])
def test_a_link_to_nowhere_is_an_error(tmp_path, link, target):
    draw(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / link).symlink_to(target)
    with pytest.raises(DataError, match=f"{link}' is a link to '{target}', where nothing is; corr"):
        load_real(tmp_path, "train")


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    draw(tmp_path, "cat/1.png", "dog/1.png", "elk/1.png")

    def scandir(path, real=os.scandir):
        if str(path).endswith("elk"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(DataError, match=r"could not be read: .*Permission denied: .*elk"):
        load_real(tmp_path, "train")


@pytest.mark.parametrize("file", ["dog/2.heic", "elk/2.HEIC", "dog/deep/2.cr2"])
def test_images_that_pillow_cannot_read_are_not_passed_over(tmp_path, file):
    draw(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_bytes(b"")
    with pytest.raises(DataError, match=f"{file}' is an image of a kind that Pillow cannot read"):
        load_real(tmp_path)


def test_pages_and_films_are_no_images(tmp_path):
    draw(tmp_path, "cat/1.png", "dog/1.png")
    for name in ("notes.pdf", "film.mpg", "data.h5", "list.csv", "1.json"):
        (tmp_path / "cat" / name).write_bytes(b"no image")
    Image.new("L", (1, 1)).save(tmp_path / "dog" / "2.gif")
    assert counts_of(load_real(tmp_path)) == {"cat": 1, "dog": 2}
