"""What the benchmarks of whole runs share: random data, the file of results, processes of one case.

A file of results is ``{"command", "hardware", "torch", "rows": [{...}]}``; a row begins with what
tells it from the others. Rows that are there are not measured again, so a command that was
interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

ROOT = Path(__file__).parents[2]
_T = TypeVar("_T")


def random_images(size: int, channels: int = 3, count: int = 600) -> Any:
    """A `datasets.Dataset` of ten classes whose images are noise."""
    import datasets
    import numpy as np
    from PIL import Image

    shape = (count, size, size) if channels == 1 else (count, size, size, channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)}
    )
    rows = {"image": [Image.fromarray(p) for p in pixels], "label": np.arange(count) % 10}
    return datasets.Dataset.from_dict(rows, features=features)


def hardware() -> str:
    """The processor, without the machine's name."""
    name = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    cores = os.cpu_count()
    return f"{name}, {cores} CPU cores, {torch.get_num_threads()} thread(s) per process"


class Results:
    """The rows of a file of results.

    Args:
        path: the file; rows that it holds are kept. None for no file.
        command: what makes it.
        keys: the fields that tell rows apart.
    """

    def __init__(self, path: Path | None, command: str, keys: Iterable[str]) -> None:
        self.path, self.command, self.keys = path, command, tuple(keys)
        self.rows: list[dict[str, Any]] = []
        if path is not None and path.exists():
            before = json.loads(path.read_text())
            if before["torch"] != torch.__version__:
                raise SystemExit(
                    f"{path} was made with torch {before['torch']}; move it away to measure again"
                )
            self.rows = before["rows"]

    def key(self, row: dict[str, Any]) -> tuple[Any, ...]:
        """What tells a row from the others."""
        return tuple(row.get(name) for name in self.keys)

    def __contains__(self, row: dict[str, Any]) -> bool:
        return any(self.key(row) == self.key(other) for other in self.rows)

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Take over rows and write the file."""
        for row in rows:
            print(json.dumps(row), flush=True)
            self.rows = [r for r in self.rows if self.key(r) != self.key(row)] + [row]
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "command": self.command,
            "hardware": hardware(),
            "torch": torch.__version__,
            "rows": self.rows,
        }
        self.path.write_text(json.dumps(content, indent=1) + "\n")


def in_turns(names: Sequence[_T], rounds: int) -> Iterator[_T]:
    """Every name once per round, forwards and backwards by turns, against drift of the machine."""
    for number in range(rounds):
        yield from names if number % 2 == 0 else reversed(names)


def ratio_in_turns(
    first: Callable[[], Any], second: Callable[[], Any], rounds: int, *, dropped: int
) -> dict[str, Any]:
    """Milliseconds of two functions, and the ratio of the second to the first in each round.

    Args:
        first: takes no arguments.
        second: the same.
        rounds: how often each is called.
        dropped: the first rounds, which do not count.

    Returns:
        ``milliseconds``, two medians; ``ratio``, the median; ``ratios``, quartiles.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for way in in_turns((0, 1), rounds):
        began = time.perf_counter()
        (first, second)[way]()
        seconds[way].append(time.perf_counter() - began)
    own, other = (values[dropped:] for values in seconds)
    ratios = sorted(b / a for a, b in zip(own, other, strict=True))
    return {
        "milliseconds": [1000 * statistics.median(values) for values in (own, other)],
        "ratio": statistics.median(ratios),
        "ratios": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
    }


def in_child(
    module: str, case: dict[str, Any], threads: int, environment: Mapping[str, str] | None = None
) -> Any:
    """What ``python -m module --case CASE`` writes: a case in a process of its own.

    Args:
        module: the benchmark.
        case: handed over as JSON.
        threads: CPU threads of the process.
        environment: variables beside those of this process.

    Raises:
        RuntimeError: it failed; with the end of its messages.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "case.json"
        command = [sys.executable, "-m", module, "--threads", str(threads)]
        command += ["--case", json.dumps(case), "--result", str(result)]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not result.exists():
            raise RuntimeError(f"exit {done.returncode}: {done.stderr[-600:]}")
        return json.loads(result.read_text())


class Served:
    """A process of a benchmark that measures once for every line that it is sent.

    Args:
        command: what starts it. It prints ``READY``, and for every line of input ``TOOK`` and a
            JSON object.
        environment: variables beside those of this process.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            list(command),
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, word: str) -> str:
        """The rest of the next line that begins with a word."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(word):
                return line.removeprefix(word)
        raise RuntimeError(f"the process ended with {self._process.wait()}")

    def measure(self) -> dict[str, float]:
        """What one measurement took."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        values: dict[str, float] = json.loads(self.wait_for("TOOK "))
        return values

    def end(self) -> None:
        """Let the process end."""
        self._process.communicate()
