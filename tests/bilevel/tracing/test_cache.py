"""A file of the compiler's cache that was cut off costs one more compilation and no more."""

import atexit
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from dd_plugin.bilevel.tracing import cache
from dd_plugin.bilevel.tracing.cache import CompileCacheWarning, damaged_entry
from dd_plugin.bilevel.tracing.compile import CompiledFunction
from tests.processes import ENVIRONMENT
from tests.repository import ROOT

_RUN = """
import warnings

import torch

from dd_plugin.bilevel import CompileCacheWarning
from dd_plugin.bilevel.tracing.compile import CompiledFunction

x = torch.arange(12.0).view(3, 4)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always", CompileCacheWarning)
    run = CompiledFunction(lambda x: x.sin() + x.cos().sum(0), (x,))
    assert torch.allclose(run(x), x.sin() + x.cos().sum(0))
for warning in told:
    if issubclass(warning.category, CompileCacheWarning):
        print(warning.message)
"""


def compile_with(place, temporary):
    folders = {"TORCHINDUCTOR_CACHE_DIR": str(place), "TMPDIR": str(temporary)}
    done = subprocess.run(
        [sys.executable, "-c", _RUN],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT, **folders},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def truncated(place, temporary, suffix):
    """A cache whose files of a kind were cut off, and these."""
    temporary.mkdir()
    assert compile_with(place, temporary) == ""
    files = [path for path in place.rglob("*") if path.name.endswith(suffix)]
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[:100])
    return files


def check_it_is_gone_around(place, temporary, files):
    said = compile_with(place, temporary)
    assert any(f"a damaged file, '{path}'" in said for path in files)
    assert "delete the file" in said
    # Nothing is left of the cache that was used instead, and the damaged one is as it was.
    assert not list(temporary.glob("torchinductor_fresh_*"))
    assert all(len(path.read_bytes()) == 100 for path in files)


def test_a_truncated_file_is_named_and_gone_around(tmp_path):
    where = tmp_path / "cache", tmp_path / "tmp"
    check_it_is_gone_around(*where, truncated(*where, ".main.so"))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".main.so", ".py"])
def test_it_stays_until_it_is_deleted(tmp_path, suffix):
    where = tmp_path / "cache", tmp_path / "tmp"
    files = truncated(*where, suffix)
    for _ in range(2):
        check_it_is_gone_around(*where, files)
    for path in files:
        path.unlink()
    assert compile_with(*where) == ""


@pytest.fixture
def forgotten(tmp_path, monkeypatch):
    """A cache of a compiler that is not there, and what was forgotten of its files."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "mkdtemp", lambda prefix: str(tmp_path / prefix))
    monkeypatch.setattr(atexit, "register", lambda *_: None)
    calls = []
    monkeypatch.setattr(cache, "forget_compiled_files", lambda: calls.append(1))
    return calls


@pytest.mark.parametrize("name", ["k.main.so", "k.py"])
def test_a_graph_is_compiled_once_more_without_the_cache(name, tmp_path, forgotten, monkeypatch):
    (tmp_path / name).touch()
    compiled = []

    def compile(graph, **options):
        compiled.append(os.environ["TORCHINDUCTOR_CACHE_DIR"])

        def run(tensors):
            if len(compiled) == 1:
                raise RuntimeError("backend failed") from ImportError(f"{tmp_path / name}: short")
            return graph(tensors)

        return run

    monkeypatch.setattr(torch, "compile", compile)
    run = CompiledFunction(lambda x: x + 1, (torch.ones(2),))
    with pytest.warns(CompileCacheWarning, match=f"a damaged file, '{tmp_path / name}'"):
        assert torch.equal(run(torch.ones(2)), torch.full((2,), 2.0))
    assert torch.equal(run(torch.ones(2)), torch.full((2,), 2.0))
    assert compiled == [str(tmp_path), str(tmp_path / "torchinductor_fresh_")]
    assert forgotten == [1]


def test_only_files_of_the_cache_count(tmp_path, monkeypatch):
    place = tmp_path / "cache"
    place.mkdir()
    entry, other = place / "a.so", tmp_path / "b.so"
    entry.touch()
    other.touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(place))
    outer = RuntimeError("backend failed")
    outer.__cause__ = ImportError(f"{entry}: file too short")
    assert damaged_entry(outer) == entry
    for text in (f"{other}: file too short", f"{place}/gone.so: file too short", "no path"):
        assert damaged_entry(ImportError(text)) is None
    circle = ValueError("x")
    circle.__context__ = outer
    outer.__cause__.__context__ = circle
    assert damaged_entry(circle) == entry
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    assert damaged_entry(outer) is None
    default = tmp_path / "torchinductor_somebody"
    default.mkdir()
    (default / "c.py").touch()
    assert damaged_entry(RuntimeError(f"Failed to import {default}/c.py")) == Path(default, "c.py")
