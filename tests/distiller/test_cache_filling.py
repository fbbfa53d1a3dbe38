"""`dd_plugin.distiller.cache_filling`: the process beside the run, with and without a compiler."""

import io
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dd_plugin.bilevel.ahead import Kept
from dd_plugin.bilevel.tracing import cache
from dd_plugin.bilevel.tracing import compile as compiling
from dd_plugin.distiller import cache_filling
from dd_plugin.distiller.cache_filling import CacheFilling, is_filled, note_filled
from tests.distiller.toy import toy_distiller
from tests.repository import ROOT

CPU = torch.device("cpu")
NONE = Kept(0, 3, 3)

linux = pytest.mark.skipif(not CacheFilling.is_possible(), reason="no such processes here")


def traced(folder, **options):
    """A run whose first step was traced."""
    distiller = toy_distiller(folder, compile="trace", dtype="float32", **options)
    distiller.training_step()
    return distiller


def wait_for(filling):
    end = time.monotonic() + 300
    while filling.is_running and time.monotonic() < end:
        time.sleep(0.1)
    assert not filling.is_running


@linux
def test_the_process_ends_and_says_how_it_went(tmp_path):
    recipe = traced(tmp_path).synthetic.recipe
    well = CacheFilling([], recipe, NONE, 1)
    wait_for(well)
    assert well.failure == ""
    well.stop()


@linux
def test_a_failure_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_filling, "__name__", "no_such_module")
    filling = CacheFilling([], traced(tmp_path).synthetic.recipe, NONE, 1)
    wait_for(filling)
    assert filling.failure == "ModuleNotFoundError: No module named 'no_such_module'"
    filling.stop()


@linux
def test_it_is_stopped_at_any_time(tmp_path):
    distiller = traced(tmp_path)
    problems, recipe = distiller.architectures.problems, distiller.synthetic.recipe
    filling = CacheFilling(problems, recipe, NONE, 1)
    assert filling.is_running
    filling.stop()
    assert not filling.is_running


ORPHAN = """
import os, subprocess, sys
code = "from dd_plugin.distiller.cache_filling import _end_with; _end_with(%d)" % os.getpid()
child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
print(child.pid, flush=True)
sys.stdin.read()
"""


@linux
def test_the_process_ends_with_a_run_that_is_killed():
    command = [sys.executable, "-c", ORPHAN]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as run:
        child = int(run.stdout.readline())
        os.kill(child, 0)
        run.kill()
    end = time.monotonic() + 60
    while time.monotonic() < end and is_alive(child):
        time.sleep(0.1)
    assert not is_alive(child)


def is_alive(process):
    """Whether a process, which may be nobody's child, still runs."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_its_work_is_what_the_run_will_call(tmp_path, monkeypatch):
    """The main function of the process in this one, with a compiler that makes no code."""
    graphs = []

    def compiled(self):
        graphs.append(self._graph.code)
        return self._graph

    monkeypatch.setattr(compiling.CompiledGraph, "_compile", compiled)
    monkeypatch.setattr(os, "nice", lambda _: 0)
    handed = []

    class Process:
        def __init__(self, command, stdin, **_):
            handed.append(stdin.read())

        def poll(self):
            return 0

        def wait(self):
            return 0

    monkeypatch.setattr(subprocess, "Popen", Process)
    distiller = traced(tmp_path, soft_labels=True, networks_per_step=2)
    problems, recipe = distiller.architectures.problems, distiller.synthetic.recipe
    CacheFilling(problems, recipe, NONE, 1).stop()
    settings = torch.get_num_threads(), torch.backends.cuda.matmul.fp32_precision
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(handed[0])))
    monkeypatch.setattr(cache_filling, "_end_with", lambda _: None)
    cache_filling.main()
    # They are part of the cache's keys.
    assert (torch.get_num_threads(), torch.backends.cuda.matmul.fp32_precision) == settings
    elsewhere = sorted(graphs)
    graphs.clear()
    problems[0].compile = True
    distiller.training_step()
    assert sorted(graphs) == elsewhere != []


def test_what_cannot_be_pickled_starts_nothing(tmp_path):
    distiller = traced(tmp_path)
    (problem,) = distiller.architectures.problems
    problem.model.hook = lambda: None
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        CacheFilling([problem], distiller.synthetic.recipe, NONE, 1)


def test_the_note_is_that_of_the_same_work(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    problems = traced(tmp_path / "a").architectures.problems
    assert not is_filled(problems, CPU)
    note_filled(problems, CPU)
    assert is_filled(problems, CPU)
    assert is_filled(traced(tmp_path / "b").architectures.problems, CPU)
    others = traced(tmp_path / "c", images_per_class=2).architectures.problems
    assert not is_filled(others, CPU)


def test_a_cache_that_cannot_be_written_is_not_filled(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    problems = traced(tmp_path / "run").architectures.problems
    note_filled(problems, CPU)
    assert not is_filled(problems, CPU)


def test_the_folder_of_the_cache_is_the_compilers(monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    assert str(cache.cache_folder()) == default_cache_dir()


@pytest.mark.slow
@linux
def test_the_compiler_finds_everything_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    distiller = traced(tmp_path)
    problems, recipe = distiller.architectures.problems, distiller.synthetic.recipe
    filling = CacheFilling(problems, recipe, NONE, 1)
    wait_for(filling)
    assert filling.failure == ""
    from torch._dynamo.utils import counters

    counters.clear()
    problems[0].compile = True
    distiller.training_step()
    assert counters["inductor"]["fxgraph_cache_hit"] > 0
    assert counters["inductor"]["fxgraph_cache_miss"] == 0
