"""`dd_plugin.hub.opening`: a name is that of a folder, or of a set on the Hub."""

from pathlib import Path

import pytest

from dd_plugin import DistilledDataset
from dd_plugin.hub import opening
from dd_plugin.hub.remote.download import DownloadError
from tests.hub.toy import write_toy


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~nobody-of-that-name/x", ""])
def test_names_that_are_none(name):
    with pytest.raises((DownloadError, ValueError)):
        DistilledDataset.from_pretrained(name)


@pytest.mark.parametrize(
    "name", ["ada/one", Path("ada/one"), "~/ada/one"], ids=["text", "path", "home"]
)
def test_a_folder_goes_before_a_set_of_that_name_on_the_hub(tmp_path, monkeypatch, name):
    def asked(*args, **options):
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr(opening, "download_set", asked)
    monkeypatch.chdir(tmp_path)
    for home in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(home, str(tmp_path))
    folder = write_toy(tmp_path / "ada" / "one")
    assert DistilledDataset.from_pretrained(name).folder.resolve() == folder.resolve()


def test_any_other_name_is_asked_for_with_all_that_was_told(tmp_path, monkeypatch):
    folder = write_toy(tmp_path / "cached")
    asked = []

    def download(name, **options):
        asked.append((name, options))
        return folder

    monkeypatch.setattr(opening, "download_set", download)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no folder")
    options = {"revision": "wip", "token": "mine", "cache_dir": tmp_path, "local_files_only": True}
    for name in ("ada/one", "file"):
        opened = DistilledDataset.from_pretrained(name, max_bytes=1 << 20, **options)
        assert opened.folder == folder
        assert asked.pop() == (name, {**options, "max_bytes": 1 << 20})
