"""A process beside the run that fills the compiler's cache on disk, while steps go on traced.

Started by `auto_compile`. The process gets the problems of the run, compiles what their traced
steps have called, and ends. It has the lowest priority, ends with the run, and can do nothing to
it: a failure is a line in the log.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from dd_plugin.bilevel import BilevelProblem
from dd_plugin.bilevel.ahead import Kept, Work, compile_ahead, fingerprint, work_of
from dd_plugin.bilevel.tracing.cache import cache_folder
from dd_plugin.data import Recipe
from dd_plugin.distiller.machine import processor
from dd_plugin.files import write_whole
from dd_plugin.text import first_line

# Of the system; others have no processes that this module can end safely.
_SYSTEMS = ("linux", "darwin")
_MOST_WORKERS = 8
# Seconds between two looks at whether the run still lives.
_LOOK = 1.0


@dataclass(frozen=True)
class _Request:
    """The work of the process. Numbers of threads and precisions are in the compiler's code."""

    works: list[Work]
    recipe: Recipe
    parent: int
    threads: int
    precision: str
    deterministic: bool


class CacheFilling:
    """The process. Making it starts it.

    Args:
        problems: of the run, traced, with the losses that problems have by default.
        recipe: of their training.
        kept: the activations that compiled steps keep.
        workers: processes that may compile at a time.

    Raises:
        Exception: a problem cannot be handed over; nothing was started.
    """

    def __init__(
        self, problems: Sequence[BilevelProblem], recipe: Recipe, kept: Kept, workers: int
    ) -> None:
        request = _Request(
            works=[work for problem in problems for work in work_of(problem, kept)],
            recipe=recipe,
            parent=os.getpid(),
            threads=torch.get_num_threads(),
            precision=torch.get_float32_matmul_precision(),
            deterministic=torch.are_deterministic_algorithms_enabled(),
        )
        # Files without a name, which the system removes.
        with tempfile.TemporaryFile() as file:
            pickle.dump(request, file)
            file.seek(0)
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from {__name__} import main; main()"],
                stdin=file,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                env=_environment(min(workers, _MOST_WORKERS)),
                # Ctrl-C at the terminal is the run's.
                start_new_session=True,
            )

    @staticmethod
    def is_possible() -> bool:
        """Return whether this system has such processes."""
        return sys.platform.startswith(_SYSTEMS)

    @property
    def is_running(self) -> bool:
        """Whether it is still compiling."""
        return self._process.poll() is None

    @property
    def failure(self) -> str:
        """The reason why it failed, in a line; empty if it did its work."""
        if self._process.poll() == 0:
            return ""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return (
            first_line(RuntimeError(lines[-1]))
            if lines
            else f"it ended with {self._process.returncode}"
        )

    def stop(self) -> None:
        """End the process. A compiler that it has started ends its file, which is whole then."""
        if self.is_running:
            self._process.kill()
        self._process.wait()
        self._errors.close()


def is_filled(problems: Sequence[BilevelProblem], device: torch.device) -> bool:
    """Return whether the cache has what these traced problems would compile, as far as is known."""
    return _mark(problems, device).exists()


def note_filled(problems: Sequence[BilevelProblem], device: torch.device) -> None:
    """Note in the cache that it has what these traced problems would compile."""
    with suppress(OSError):
        write_whole(_mark(problems, device), b"")


def _mark(problems: Sequence[BilevelProblem], device: torch.device) -> Path:
    facts = (torch.__version__, processor(device), torch.get_num_threads())
    prints = "".join(sorted(fingerprint(problem) for problem in problems))
    name = hashlib.sha256(f"{facts}{prints}".encode()).hexdigest()[:32]
    return cache_folder() / f"dd_plugin-{name}"


def _environment(workers: int) -> dict[str, str]:
    """Return the variables of the process, which imports what this one does."""
    paths = os.pathsep.join(path for path in sys.path if path)
    here = {"PYTHONPATH": paths, "TORCHINDUCTOR_COMPILE_THREADS": str(workers)}
    return {**os.environ, **here}


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os._exit(1)


def main() -> None:
    """Compile what stands in the input."""
    os.nice(19)
    request: _Request = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with, args=(request.parent,), daemon=True).start()
    torch.set_num_threads(request.threads)
    # Setting what is set already is noted by torch, and the cache would be that of other settings.
    if request.precision != torch.get_float32_matmul_precision():
        torch.set_float32_matmul_precision(request.precision)
    if request.deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(request.deterministic)
    for work in request.works:
        compile_ahead(work, request.recipe.make_optimizer())
