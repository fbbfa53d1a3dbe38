"""A file of the compiler's cache that was cut off costs one more compilation and no more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dd_plugin.bilevel.tracing.cache import damaged_entry
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


def compile_with(cache, temporary):
    folders = {"TORCHINDUCTOR_CACHE_DIR": str(cache), "TMPDIR": str(temporary)}
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


@pytest.mark.parametrize("suffix", [".main.so", ".py"])
def test_a_truncated_file_is_named_and_gone_around(tmp_path, suffix):
    cache, temporary = tmp_path / "cache", tmp_path / "tmp"
    temporary.mkdir()
    assert compile_with(cache, temporary) == ""
    files = [path for path in cache.rglob("*") if path.name.endswith(suffix)]
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[:100])
    for _ in range(2):
        said = compile_with(cache, temporary)
        assert any(f"a damaged file, '{path}'" in said for path in files)
        assert "delete the file" in said
        # Nothing is left of the cache that was used instead, and the damaged one is as it was.
        assert not list(temporary.glob("torchinductor_fresh_*"))
    for path in files:
        path.unlink()
    assert compile_with(cache, temporary) == ""


def test_only_files_of_the_cache_count(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    cache.mkdir()
    entry, other = cache / "a.so", tmp_path / "b.so"
    entry.touch()
    other.touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
    outer = RuntimeError("backend failed")
    outer.__cause__ = ImportError(f"{entry}: file too short")
    assert damaged_entry(outer) == entry
    for text in (f"{other}: file too short", f"{cache}/gone.so: file too short", "no path"):
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
