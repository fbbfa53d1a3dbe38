"""Runs of several processes, for tests of the trainer and the examples.

`run_processes` starts them as a user does, with a command. `run_on_two` forks both from a process
that has done the imports, which is what such a run spends most of its time on; a launcher's part,
the variables and the store that processes meet at, is done here. `run_prepared` is
the same for one process.
"""

import atexit
import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import torch.distributed

from tests.repository import ROOT

ENVIRONMENT = {
    "ACCELERATE_USE_CPU": "true",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    # Where the threads of an aborted process were is then in its output.
    "PYTHONFAULTHANDLER": "1",
}

# Seconds after which a process is taken for one that hangs.
_PATIENCE = 240


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
    return _once_more_if_aborted(lambda: finished(command, timeout=_PATIENCE), output)


def torchrun(script, *arguments):
    """The command that starts a script in two processes, as a user would."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_port", "0", "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    return [*command, str(script), *map(str, arguments)]


def run_on_two(code, output, *arguments):
    """Run code, given arguments, in two processes; it writes a set to the folder ``output``."""
    script = _script(code, Path(f"{output}-program"))
    return _once_more_if_aborted(
        lambda: _prepared().start(script, arguments, _ranks(2)).ended(), output
    )


def start_prepared(code, *arguments, folder, where=ROOT):
    """Start code in a fork of a process that has done the imports.

    Args:
        code: a program, as `python -c` takes it.
        arguments: its ``sys.argv`` from the second word on.
        folder: where its file and its output go, which must not exist.
        where: its working directory.
    """
    return _prepared().start(_script(code, folder), arguments, [{}], where)


def run_prepared(code, *arguments, **options):
    """What became of code that was run so."""
    return start_prepared(code, *arguments, **options).ended()


def _script(code, folder):
    folder.mkdir(parents=True)
    (folder / "run.py").write_text(code)
    return folder / "run.py"


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
_stores: list[Any] = []


class Started:
    """A program that runs in forks of a `Prepared`, which can run no other meanwhile.

    Attributes:
        pids: one of each process.
    """

    def __init__(self, answers, script, arguments):
        self.args, self._answers = [str(script), *arguments], answers
        self._out, self._err = (script.with_suffix(f".{name}") for name in ("out", "err"))
        self.pids = json.loads(answers.readline())
        self._ended = None

    def wait_for(self, text):
        """Wait until it has printed a text, or written it to its standard error."""
        deadline = time.monotonic() + _PATIENCE
        while not any(text in path.read_text() for path in (self._out, self._err) if path.exists()):
            assert time.monotonic() < deadline, f"no {text!r} came: {self._err.read_text()}"
            os.kill(self.pids[0], 0)  # raises where it has ended
            time.sleep(0.01)

    def send_signal(self, number):
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def ended(self):
        """Wait for the end of all; the status is that of the first that failed."""
        if self._ended is None:
            too_long = threading.Timer(_PATIENCE, self.send_signal, [signal.SIGKILL])
            too_long.start()
            status = int(self._answers.readline())
            too_long.cancel()
            texts = [path.read_text() for path in (self._out, self._err)]
            self._ended = CompletedProcess(self.args, status, *texts)
            _stores.clear()
        return self._ended

    def kill(self):
        """End it, if it has not ended."""
        if self._ended is None:
            self.send_signal(signal.SIGKILL)
        return self.ended()


class Prepared:
    """A process of `tests.prepared`, which forks.

    Args:
        environment: the variables beside `ENVIRONMENT`; by default those of the tests, and an empty
            folder for what `datasets` and `huggingface_hub` keep.
    """

    def __init__(self, environment=None):
        self._home = tempfile.TemporaryDirectory()
        if environment is None:
            environment = {**os.environ, "HF_HOME": self._home.name}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.prepared"],
            cwd=ROOT,
            env={**environment, **ENVIRONMENT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self.stop)

    def start(self, script, arguments, environments, folder=ROOT):
        """Run a script in as many forks as there are environments."""
        for name in ("out", "err"):
            script.with_suffix(f".{name}").unlink(missing_ok=True)
        arguments = [str(argument) for argument in arguments]
        asked = {
            "script": str(script),
            "arguments": arguments,
            "folder": str(folder),
            "streams": str(script.with_suffix("")),
            "environments": environments,
        }
        self._process.stdin.write(f"{json.dumps(asked)}\n")
        self._process.stdin.flush()
        return Started(self._process.stdout, script, arguments)

    def stop(self):
        atexit.unregister(self.stop)
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._home.cleanup()


@functools.cache
def _prepared():
    return Prepared()
