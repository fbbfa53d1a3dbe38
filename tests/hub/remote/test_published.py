"""What of a folder is published: a whole set, checked once, and no file from outside of it."""

import pytest

from dd_plugin.hub import PushError, push_folder, reading
from tests.hub.remote.pushing import refused
from tests.hub.sets import set_folder


def test_a_file_is_hashed_once(tmp_path, monkeypatch):
    folder = set_folder(tmp_path)
    monkeypatch.setattr(reading, "sha256_of", None)  # those of `published_files` will do

    def enough(*args, **options):
        raise PushError("asked for after the files were looked at")

    monkeypatch.setattr("dd_plugin.hub.remote.push.check_target", enough)
    with pytest.raises(PushError, match="asked for after"):
        push_folder(folder, "ada/one")
    tensors = folder / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"x")
    with pytest.raises(PushError, match=r"what is damaged here is not published: .* differs"):
        push_folder(folder, "ada/one")


def test_a_folder_without_a_set(hub, push, folder):
    (folder / "recipe.json").unlink()
    assert "got no recipe.json" in refused(push)
    assert hub.requests == []


def test_a_damaged_set_is_not_published(hub, push, folder):
    content = bytearray((folder / "tensors.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "tensors.safetensors").write_bytes(content)
    assert "what is damaged here is not published" in refused(push)
    assert not hub.requests


@pytest.mark.parametrize("name", ["results.md", "curve.png", "README.md", "log.jsonl"])
def test_a_link_out_of_the_folder_is_not_published(hub, push, folder, tmp_path, name):
    (tmp_path / "private").write_text("a secret")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "private")
    said = refused(push)
    assert f"{name} in {folder} is a link to a file outside of that folder" in said
    assert not hub.requests
