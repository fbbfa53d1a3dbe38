"""Runs of several processes, for tests of the trainer and the examples.

`run_processes` starts them as a user does, with a command. `run_on_two` forks both from a process
that has done the imports, which is what such a run spends most of its time on; a launcher's part,
the variables and the store that processes meet at, is done here.
"""

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess

import torch.distributed

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
    """Run a command that writes a distilled set to the folder ``output``."""
    return _once_more_if_aborted(lambda: finished(command, timeout=240), output)


def torchrun(script, *arguments):
    """The command that starts a script in two processes, as a user would."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_port", "0", "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    return [*command, str(script), *map(str, arguments)]


def run_on_two(code, output, *arguments):
    """Run code, given arguments, in two processes; it writes a set to the folder ``output``."""
    script = Path(f"{output}-program") / "run.py"
    script.parent.mkdir(parents=True)
    script.write_text(code)
    return _once_more_if_aborted(
        lambda: _prepared().run(script, [str(a) for a in arguments], _ranks(2)), output
    )


def _once_more_if_aborted(run, output):
    """Run what writes a set.

    On a loaded machine one of some hundred processes of gloo was aborted while it ended, with its
    work done. That, and nothing else, is tried once more.
    """
    for _ in range(2):
        done = run()
        # The record is what a set is finished with.
        if "SIGABRT" not in done.stderr or not (output / "recipe.json").exists():
            break
        shutil.rmtree(output)
    return done


def _ranks(number):
    """What a launcher tells each of its processes, with a store of their own to meet at."""
    store = torch.distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    _stores.append(store)
    shared = {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
    }
    return [{**shared, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(number)]


# The store of the last run; one that went away at once would take a process's last words with it.
_stores = []


class _Prepared:
    """The process of `tests.prepared`, which forks."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.prepared"],
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self.stop)

    def run(self, script, arguments, environments):
        streams = script.with_suffix("")
        asked = {
            "script": str(script),
            "arguments": arguments,
            "environments": environments,
            "streams": str(streams),
        }
        self.process.stdin.write(f"{json.dumps(asked)}\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        out, err = (streams.with_suffix(f".{name}") for name in ("out", "err"))
        texts = [path.read_text() for path in (out, err)]
        for path in (out, err):
            path.unlink()
        del _stores[:]
        return CompletedProcess([str(script), *arguments], status, *texts)

    def stop(self):
        atexit.unregister(self.stop)
        self.process.stdin.close()
        self.process.wait()


@functools.cache
def _prepared():
    return _Prepared()
