"""Writing the folder: what is in it, and that no failure costs the set that was there."""

import hashlib
import io
import json
import os
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dd_plugin.data.parametrization import Upsampled
from dd_plugin.hub.folder import preview, to_bytes, write_set
from dd_plugin.hub.limits import DistilledFormatError
from dd_plugin.hub.reading import read_set
from tests.hub.toy import synthetic_set, write_toy
from tests.processes import start_prepared


def test_files_and_their_checksums(tmp_path):
    write_toy(tmp_path, soft_labels=True)
    record = json.loads((tmp_path / "recipe.json").read_text())
    names = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert names == {*record["files"], "README.md", "recipe.json"}
    for name, noted in record["files"].items():
        content = (tmp_path / name).read_bytes()
        assert noted == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert record["images"]["count"] == 4
    assert record["images"]["per_class"] == 2


def test_images_are_exact_in_one_file_and_rounded_in_the_other(tmp_path):
    write_toy(tmp_path)
    images = synthetic_set().images().detach()
    assert torch.equal(load_file(tmp_path / "tensors.safetensors")["images"], images)
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(tmp_path / "data/train-00000-of-00001.parquet").to_pylist()
    for row, image in zip(rows, images, strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
        assert np.array_equal(pixels, np.round(image[0].numpy() * 255))
    assert [row["label"] for row in rows] == [0, 0, 1, 1]


def test_upsampled_images_are_stored_small_and_enlarged_once(tmp_path, monkeypatch):
    calls = []
    forward = Upsampled.forward
    monkeypatch.setattr(Upsampled, "forward", lambda self: calls.append(1) or forward(self))
    own = synthetic_set(factor=2)
    calls.clear()
    write_set(tmp_path, own)
    assert len(calls) == 1
    tensors = load_file(tmp_path / "tensors.safetensors")
    assert "images" not in tensors
    assert torch.equal(tensors["small_images"], own.parametrization.pixels)
    record = json.loads((tmp_path / "recipe.json").read_text())["images"]
    # Four images, two per class, in the storage of one.
    assert (record["count"], record["per_class"], record["upsample_factor"]) == (4, 2, 2)
    again = read_set(tmp_path).synthetic
    assert torch.equal(again.images(), own.images())
    assert again.images_per_class == own.images_per_class == 0.5


def test_the_same_set_gives_the_same_bytes(tmp_path):
    first, second = (write_toy(tmp_path / name) for name in "ab")
    for path in first.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()


def test_rounding_is_to_the_nearest_of_256():
    values = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 1.0, 1.2, -0.1])
    assert to_bytes(values).tolist() == [0, 0, 1, 255, 255, 0]


def test_a_preview_has_a_column_per_class_and_an_end():
    # Two classes in columns, two images each, 8 pixels enlarged 8 times, a border of one pixel.
    assert preview(synthetic_set()).size == (2 * 9 * 8 + 8, 2 * 9 * 8 + 8)
    many = synthetic_set()
    many.parametrization.pixels.data = torch.rand(400, 1, 8, 8)
    many.labels = torch.arange(400) % 2
    assert preview(many).size == (2 * 9 * 8 + 8, 20 * 9 * 8 + 8)


@pytest.mark.parametrize("fails_at", [1, 3, 5])
def test_a_full_disk_leaves_the_set_that_was_there(tmp_path, monkeypatch, fails_at):
    write_toy(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == fails_at:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_toy(tmp_path, soft_labels=True)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    read_set(tmp_path)


WRITER = """
import sys
from pathlib import Path
from tests.hub.toy import write_toy

folder = Path(sys.argv[1])
print("ready", flush=True)
while True:
    for soft in (False, True):
        write_toy(folder, soft_labels=soft)
"""


def test_a_killed_writer_never_leaves_half_of_two_unnoticed(tmp_path):
    write_toy(tmp_path / "set")
    random = np.random.default_rng(0)
    for attempt in range(4):
        program = tmp_path / f"program-{attempt}"
        process = start_prepared(WRITER, tmp_path / "set", folder=program)
        process.wait_for("ready\n")
        time.sleep(0.3 + float(random.random()) * 0.3)
        assert process.kill().returncode == -signal.SIGKILL
        try:
            read_set(tmp_path / "set")
        except DistilledFormatError as error:
            assert "is not the file that was written with" in str(error)  # noqa: PT017
    # Written once more, all is well.
    write_toy(tmp_path / "set")
    read_set(tmp_path / "set")
