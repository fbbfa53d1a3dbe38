"""Half-written files are deleted when their writer is gone, and only then."""

import os
import socket
import subprocess
import sys
import time
import zlib

import pytest

from dd_plugin.hub import leftovers
from dd_plugin.hub.folder import write_whole
from dd_plugin.hub.leftovers import partial_name, remove_leftovers
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
from dd_plugin.hub import folder
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
folder.write_whole(Path(sys.argv[1]) / "recipe.json", b"half")
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".recipe.json.")
    write_whole(tmp_path / "recipe.json", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]


def test_the_beginning_of_a_process():
    assert leftovers._beginning(os.getpid()) <= time.time() + 1
    assert leftovers._beginning(2**40) is None
