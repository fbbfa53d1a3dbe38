"""Links in a folder of a set: those out of it are not followed, those of the Hub's cache are."""

import os
from pathlib import Path

import pytest

from dd_plugin import DistilledDataset
from dd_plugin.hub.links import leaves
from dd_plugin.hub.remote.push import PushError, push_folder
from tests.hub.toy import write_toy

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")


@pytest.fixture
def private(tmp_path):
    path = tmp_path / "home" / "private"
    path.parent.mkdir()
    path.write_text("a secret")
    return path


def refused(folder, target):
    distilled = DistilledDataset.from_pretrained(folder)
    for call in (
        lambda: distilled.save_pretrained(target),
        lambda: push_folder(folder, "ada/one", token="none"),
        lambda: distilled.push_to_hub("ada/one", token="none"),
    ):
        with pytest.raises(PushError, match="is a link to a file outside of that folder"):
            call()
    assert not target.exists()


@pytest.mark.parametrize("name", ["results.md", "log.jsonl", "curve.png", "preview.png"])
@pytest.mark.parametrize("how", ["absolute", "relative", "twice", "folder"])
def test_a_link_out_of_the_folder_is_refused(tmp_path, private, name, how):
    folder = write_toy(tmp_path / "set")
    (folder / name).unlink(missing_ok=True)
    if how == "absolute":
        (folder / name).symlink_to(private)
    elif how == "relative":
        (folder / name).symlink_to(Path("..") / "home" / "private")
    elif how == "twice":
        (folder / "inner").symlink_to(private)
        (folder / name).symlink_to("inner")
    else:
        (folder / "inner").symlink_to(private.parent)
        (folder / name).symlink_to("inner/private")
    refused(folder, tmp_path / "copy")


def test_more_images_behind_a_link(tmp_path, private):
    folder = write_toy(tmp_path / "set")
    (folder / "data" / "train-00001-of-00002.parquet").symlink_to(private)
    refused(folder, tmp_path / "copy")


def test_links_inside_of_the_folder_and_to_it_are_fine(tmp_path):
    folder = write_toy(tmp_path / "set")
    (folder / "notes.md").write_text("mine")
    (folder / "results.md").symlink_to("notes.md")
    (tmp_path / "link").symlink_to(folder)
    copy = DistilledDataset.from_pretrained(tmp_path / "link").save_pretrained(tmp_path / "copy")
    assert (copy / "results.md").read_text() == "mine"
    assert not (copy / "results.md").is_symlink()


def snapshot(root, blobs="blobs"):
    """A set as the Hub's cache has it."""
    real = write_toy(root / "real")
    repository = root / "hub" / "datasets--ada--one"
    folder = repository / "snapshots" / ("0" * 40)
    for index, path in enumerate(sorted(p for p in real.rglob("*") if p.is_file())):
        link = folder / path.relative_to(real)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob = repository / "blobs" / f"{index:064x}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        if blobs == "shared":
            shared = root / "hub" / "blobs" / "00" / f"{index:064x}"
            shared.parent.mkdir(parents=True, exist_ok=True)
            path.rename(shared)
            blob.symlink_to(os.path.relpath(shared, blob.parent))
        else:
            path.rename(blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return folder


@pytest.mark.parametrize("blobs", ["blobs", "shared"])
def test_the_cache_of_the_hub_is_copied(tmp_path, blobs):
    folder = snapshot(tmp_path, blobs)
    copy = DistilledDataset.from_pretrained(folder).save_pretrained(tmp_path / "copy")
    assert not [path for path in copy.rglob("*") if path.is_symlink()]
    DistilledDataset.from_pretrained(copy)


@pytest.mark.parametrize("place", ["blobs/../../../home/private", "blobs/x", "../blobs/x"])
def test_a_folder_that_looks_like_the_cache_leads_nowhere(tmp_path, private, place):
    folder = snapshot(tmp_path)
    repository = folder.parent.parent
    if place == "blobs/x":
        (repository / "blobs" / "x").symlink_to(private)
    elif place == "../blobs/x":
        (repository.parent / "blobs").symlink_to(private.parent)
        place = "../blobs/private"
    (folder / "results.md").symlink_to(Path("..", "..", place))
    assert leaves(folder, folder / "results.md")
    refused(folder, tmp_path / "copy")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in the file system")
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file_is_not_published(tmp_path, kind):
    folder = write_toy(tmp_path / "set")
    distilled = DistilledDataset.from_pretrained(folder)
    make = {"pipe": os.mkfifo, "folder": os.mkdir}[kind]
    make(folder / "results.md")
    with pytest.raises(PushError, match=r"results.md in .* must be a file"):
        distilled.save_pretrained(tmp_path / "copy")


def test_a_card_behind_a_link_is_not_merged_into_a_new_one(tmp_path, private):
    folder = write_toy(tmp_path / "set")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(private)
    with pytest.warns(UserWarning, match="is a link to a file outside of its folder"):
        write_toy(folder)
    assert "secret" not in (folder / "README.md").read_text()
    assert private.read_text() == "a secret"
