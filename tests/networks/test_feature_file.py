"""Files of features: written whole or not at all, and never taken when they are damaged."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from dd_plugin.networks import feature_file
from dd_plugin.networks.feature_file import FeatureFile, UnusableFileWarning, read_features
from dd_plugin.networks.features import features_of
from tests.networks.stand_ins import Backbone, data, expected, only_file
from tests.repository import ROOT


def test_any_safetensors_reader_opens_the_file(tmp_path):
    features = features_of(Backbone(), data(), folder=tmp_path)
    with safe_open(only_file(tmp_path), "pt") as file:
        assert sorted(file.keys()) == ["labels", "values"]
        assert torch.equal(file.get_tensor("values"), features.values)
        assert torch.equal(file.get_tensor("labels"), features.labels)
        assert file.metadata()["key"] == only_file(tmp_path).name.removesuffix(".safetensors")


def test_values_from_a_file_are_memory_mapped(tmp_path):
    features_of(Backbone(), data(), folder=tmp_path)
    features = features_of(Backbone(), data(), folder=tmp_path)
    assert str(only_file(tmp_path)) in Path("/proc/self/maps").read_text()
    assert torch.isfinite(features.values).all()


def flip_a_bit(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def damages(content):
    header = int.from_bytes(content[:8], "little")
    yield b""
    yield b"x"
    yield content[:-1]
    yield content[: len(content) // 2]
    yield content + b"\0"
    yield b"not a file of tensors" * 100
    yield flip_a_bit(content, 8 + header)  # the first label
    yield flip_a_bit(content, 8 + header + 150 * 8 + 6)
    yield flip_a_bit(content, len(content) - 1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        yield flip_a_bit(content, int(torch.randint(8, len(content), (), generator=generator)))


def test_a_damaged_file_is_noticed_and_computed_again(tmp_path):
    first = features_of(Backbone(), data())
    features_of(Backbone(), data(), folder=tmp_path)
    path = only_file(tmp_path)
    content = path.read_bytes()
    for damaged in damages(content):
        path.write_bytes(damaged)
        backbone = Backbone()
        with pytest.warns(UnusableFileWarning, match=f"{path.name} cannot be used"):
            again = features_of(backbone, data(), folder=tmp_path)
        assert backbone.calls
        torch.testing.assert_close(again.values, first.values)
        assert only_file(tmp_path).read_bytes() == content


def test_a_file_of_another_run_under_the_name_is_noticed(tmp_path):
    features_of(Backbone(), data(), folder=tmp_path / "one")
    features_of(Backbone(), data(seed=1), folder=tmp_path / "two")
    path = only_file(tmp_path / "one")
    path.write_bytes(only_file(tmp_path / "two").read_bytes())
    with pytest.warns(UnusableFileWarning, match="other data, other weights or other settings"):
        features = features_of(Backbone(), data(), folder=tmp_path / "one")
    torch.testing.assert_close(features.plain(), expected(data(), Backbone()))


def test_a_run_that_is_stopped_leaves_no_file(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features_of(Backbone(), data(), folder=tmp_path, on_progress=stop)
    assert list((tmp_path / "features").iterdir()) == []


_WRITER = """
import sys, time
from pathlib import Path
import torch
from dd_plugin.networks.feature_file import FeatureFile
file = FeatureFile(Path(sys.argv[1]), "key", (1, 4, 3), torch.float32, torch.arange(4))
file.write(0, 0, torch.ones(2, 3))
print("written", flush=True)
time.sleep(600)
"""


@pytest.fixture
def writers():
    """Start processes that are half through with a file of features."""
    started = []

    def start(path):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        started.append(process)
        assert process.stdout.readline() == "written\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_half_written_files_of_killed_processes_are_deleted_and_no_others(tmp_path, writers):
    folder = tmp_path / "features"
    killed = writers(folder / "killed.safetensors")
    at_work = writers(folder / "at_work.safetensors")
    (folder / "notes.txt").touch()

    def partial():
        return sorted(path.name.split(".")[1] for path in folder.glob("*.partial"))

    assert partial() == ["at_work", "killed"]
    features_of(Backbone(), data(), folder=tmp_path)
    assert partial() == ["at_work", "killed"]  # both are being written
    killed.kill()
    killed.wait()
    features_of(Backbone(), data(seed=1), folder=tmp_path)
    assert partial() == ["at_work"]
    at_work.kill()
    at_work.wait()
    features_of(Backbone(), data(seed=2), folder=tmp_path)
    assert partial() == []
    assert (folder / "notes.txt").exists()


def test_without_locks_half_written_files_are_deleted_by_their_age(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", none)
    folder = tmp_path / "features"
    folder.mkdir()
    old = folder / f".{'a' * 64}.safetensors.00000000.partial"
    old.touch()
    features_of(Backbone(), data(), folder=tmp_path)
    assert old.exists()  # its writer may be at work
    monkeypatch.setattr(feature_file, "_ABANDONED", -1.0)
    features_of(Backbone(), data(seed=1), folder=tmp_path)
    assert not old.exists()


def test_a_new_file_that_another_run_deletes_at_once_is_opened_again(tmp_path, monkeypatch):
    """Between its opening and its lock nobody can tell that its writer is alive."""
    flock, partials = feature_file.fcntl.flock, []

    def late(file, operation):
        partials.append(Path(file.name))
        if len(partials) == 1:
            partials[0].unlink()
        flock(file, operation)

    monkeypatch.setattr("fcntl.flock", late)
    features = features_of(Backbone(), data(), folder=tmp_path)
    torch.testing.assert_close(features.plain(), expected(data(), Backbone()))
    assert len(partials) == 2


def test_a_file_with_odd_shapes_reads_as_written(tmp_path):
    for rows, width in ((1, 1), (3, 7), (5, 2)):
        for dtype in (torch.float32, torch.bfloat16):
            values = torch.randn(2, rows, width).to(dtype)
            labels = torch.arange(rows)
            path = tmp_path / f"{rows}-{width}-{dtype}.safetensors"
            file = FeatureFile(path, "key", (2, rows, width), dtype, labels)
            for copy in range(2):
                file.write(copy, 0, values[copy])
            assert not path.exists()
            file.finish()
            file.discard()
            read = read_features(path, "key")
            assert torch.equal(read[0], values)
            assert torch.equal(read[1], labels)


def test_a_missing_file_is_no_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_features(tmp_path / "none.safetensors", "key") is None


def test_the_key_is_a_checksum_and_the_metadata_is_plain(tmp_path):
    features_of(Backbone(), data(), folder=tmp_path)
    path = only_file(tmp_path)
    assert re.fullmatch(r"[0-9a-f]{64}\.safetensors", path.name)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert json.loads(content[8 : 8 + length])["__metadata__"]["format"] == "dd_plugin.features.1"
