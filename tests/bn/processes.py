"""What the tests run in processes of their own: two workers over gloo, and a fresh interpreter."""

import atexit
import functools
import multiprocessing
import subprocess
import sys
import tempfile
import traceback
from multiprocessing.connection import wait

import torch
import torch.distributed as dist

from tests.repository import ROOT


def run_fresh(code, *arguments):
    """Runs Python code in a new interpreter, with warnings as errors; returns what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def _worker(rank, connection, rendezvous):
    """Answer calls until the tests have ended."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    while True:
        try:
            function, path, arguments = connection.recv()
        except EOFError:
            return
        torch.manual_seed(0)
        error = None
        try:
            torch.save(function(rank, *arguments), path)
        except Exception:  # noqa: BLE001 - whatever it is, the test shows it
            error = traceback.format_exc()
        connection.send(error)


class _Pair:
    """Two workers of one process group, which stay: to start them is what costs."""

    def __init__(self):
        context = multiprocessing.get_context("spawn")
        self.folder = tempfile.TemporaryDirectory()
        self.ends, self.processes = [], []
        atexit.register(self.stop)
        for rank in range(2):
            end, other = context.Pipe()
            arguments = (rank, other, f"file://{self.folder.name}/rendezvous")
            process = context.Process(target=_worker, args=arguments, daemon=True)
            process.start()
            other.close()
            self.ends.append(end)
            self.processes.append(process)

    def call(self, function, paths, arguments):
        for end, path in zip(self.ends, paths, strict=True):
            end.send((function, path, arguments))
        waiting = list(self.ends)
        while waiting:
            answered = wait(waiting, timeout=240)
            if not answered:
                raise TimeoutError("the workers do not answer")
            for end in answered:
                error = end.recv()
                if error is not None:
                    raise RuntimeError(error)
                waiting.remove(end)

    def stop(self):
        atexit.unregister(self.stop)
        for process in self.processes:
            process.kill()
            process.join()
        for end in self.ends:
            end.close()
        self.folder.cleanup()


@functools.cache
def _pair():
    return _Pair()


def run_on_two(function, folder, *arguments):
    """Runs ``function(rank, *arguments)`` in two processes over gloo; returns both results."""
    paths = [f"{folder}/{rank}.pt" for rank in range(2)]
    try:
        _pair().call(function, paths, arguments)
    except BaseException:
        # One may still wait for the other.
        _pair().stop()
        _pair.cache_clear()
        raise
    return [torch.load(path) for path in paths]
