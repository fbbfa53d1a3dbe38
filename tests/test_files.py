"""Files are whole or not there; what a killed writer left goes, and only then."""

import os
import socket
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from typing import NamedTuple

import pytest
import torch

import dd_plugin.files as files
from dd_plugin.files import partial_name, remove_leftovers, write_together, write_whole
from tests.repository import ROOT


def host(name=None):
    return f"{zlib.crc32((name or socket.gethostname()).encode()):08x}"


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    done = subprocess.run([sys.executable, "-c", ""], check=True)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert done.returncode == 0
    return process.pid


@pytest.fixture
def living():
    """The number of a process that began just now."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate(b"\n")


def made(folder, name, age=0.0):
    path = folder / name
    path.write_text("half")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_a_write_clears_the_folder(tmp_path, dead):
    names = (f"{dead}", f"{dead}-0123abcd", f"{dead}-{host()}-0123abcd")
    left = [made(tmp_path, f".README.md.{name}.partial") for name in names]
    write_whole(tmp_path / "log.jsonl", b"{}\n")
    assert not any(path.exists() for path in left)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_living_writer_keeps_its_file(tmp_path, living):
    path = made(tmp_path, f".a.json.{living}-{host()}-0123abcd.partial")
    mine = made(tmp_path, partial_name("b.json"), age=1e6)
    remove_leftovers(tmp_path)
    assert path.exists()
    assert mine.exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc")
def test_a_process_that_has_the_number_of_a_dead_one_is_not_the_writer(tmp_path, living):
    path = made(tmp_path, f".a.json.{living}-{host()}-0123abcd.partial", age=1e5)
    remove_leftovers(tmp_path)
    assert not path.exists()


def test_writers_on_other_machines_have_an_hour(tmp_path, dead):
    young = made(tmp_path, f".a.json.{dead}-{host('elsewhere')}-0123abcd.partial", age=1000)
    old = made(tmp_path, f".b.json.{dead}-{host('elsewhere')}-0123abcd.partial", age=5000)
    remove_leftovers(tmp_path)
    assert young.exists()
    assert not old.exists()


@pytest.mark.parametrize(
    "name",
    ["a.json", ".a.partial", "a.123456789.partial", ".a.json.x.partial", ".hidden", ".1.partial"],
)
def test_files_of_others_stay(tmp_path, name):
    path = made(tmp_path, name, age=1e7)
    remove_leftovers(tmp_path)
    assert path.exists()


def test_a_folder_that_cannot_be_read_is_passed_over(tmp_path, dead, monkeypatch):
    remove_leftovers(tmp_path / "none")
    path = made(tmp_path, f".a.json.{dead}.partial")

    def refused(*args, **kwargs):
        raise PermissionError("not yours")

    monkeypatch.setattr(type(path), "unlink", refused)
    remove_leftovers(tmp_path)


def test_a_killed_writer(tmp_path):
    """A process that is killed in the middle of a write, and the next write."""
    script = """
import os, signal, sys
from pathlib import Path
from dd_plugin import files
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
files.write_whole(Path(sys.argv[1]) / "recipe.json", b"half")
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".recipe.json.")
    write_whole(tmp_path / "recipe.json", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]


def test_the_beginning_of_a_process():
    assert files._beginning(os.getpid()) <= time.time() + 1
    assert files._beginning(2**40) is None


def test_nothing_is_replaced_before_all_is_written(tmp_path):
    write_together(tmp_path, {"a": b"1", "b/c": b"2"})
    (tmp_path / "d").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_together(tmp_path, {"a": b"3", "d": b"4"})  # d is a folder
    assert (tmp_path / "b/c").read_bytes() == b"2"
    assert not list(tmp_path.rglob("*.partial"))


def test_two_writers_of_a_file_do_not_meet(tmp_path, monkeypatch):
    sync, contents = os.fsync, [b"second"]

    def interrupted(descriptor):
        sync(descriptor)
        while contents:  # before the first has been renamed
            write_together(tmp_path, {"a": contents.pop()})

    monkeypatch.setattr(os, "fsync", interrupted)
    write_together(tmp_path, {"a": b"first"})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"first"}


def test_a_new_folder_is_whole_or_not_there(tmp_path):
    with suppress(KeyError), files.new_folder(tmp_path / "out") as folder:
        (folder / "a").write_bytes(b"1")
        raise KeyError
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()  # an empty one is no obstacle
    with files.new_folder(tmp_path / "out") as folder:
        (folder / "a").write_bytes(b"1")
        assert not list((tmp_path / "out").iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    with (
        pytest.raises(ValueError, match="must be new or empty"),
        files.new_folder(tmp_path / "out"),
    ):
        pass
    assert (tmp_path / "out" / "a").read_bytes() == b"1"


def test_a_folder_takes_the_place_of_another(tmp_path):
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_bytes(b"")
    files.replace_folder(tmp_path / "new", tmp_path / "old")
    assert [path.name for path in tmp_path.rglob("*")] == ["old", "new"]


class State(NamedTuple):
    weights: dict[str, torch.Tensor]
    course: dict[str, dict[str, torch.Tensor]]


def test_a_state_goes_into_flat_names_and_back():
    state = State({"a": torch.ones(2), "b": torch.zeros(3)}, {"m": {"a": torch.rand(2)}})
    saved = {f"pool.0.{name}": tensor for name, tensor in files.flat(state)}
    assert list(saved) == ["pool.0.weights.a", "pool.0.weights.b", "pool.0.course.m.a"]
    back = files.restored(state, saved, "pool.0.")
    assert isinstance(back, State)
    assert torch.equal(back.course["m"]["a"], state.course["m"]["a"])
    back.weights["a"].zero_()
    assert saved["pool.0.weights.a"].sum() == 2  # copies
    assert files.under({**saved, "pool.1.weights.a": 0}, "pool.0.weights.").keys() == {"a", "b"}
    for wrong in ({}, {**saved, "pool.0.weights.b": torch.zeros(4)}):
        with pytest.raises(ValueError, match=r"must have pool\.0\.weights"):
            files.restored(state, wrong, "pool.0.")
