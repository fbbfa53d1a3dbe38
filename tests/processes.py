"""Runs of several processes as a user starts them, for tests of the trainer and the examples."""

import os
import shutil
import subprocess

from tests.repository import ROOT

ENVIRONMENT = {
    "ACCELERATE_USE_CPU": "true",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    # Where the threads of an aborted process were is then in its output.
    "PYTHONFAULTHANDLER": "1",
}


def finished(command, timeout=None):
    """What became of a command that was run with these variables, in the repository."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def run_processes(command, output):
    """Run a command that writes a distilled set to the folder ``output``.

    On a loaded machine one of some hundred processes of gloo was aborted while it ended, with its
    work done. That, and nothing else, is tried once more.
    """
    for _ in range(2):
        done = finished(command, timeout=240)
        # The record is what a set is finished with.
        if "SIGABRT" not in done.stderr or not (output / "recipe.json").exists():
            break
        shutil.rmtree(output)
    return done
