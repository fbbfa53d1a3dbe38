"""``python -m tests.compatibility``: the whole sweep, and the page that it fills.

The models go to worker processes one at a time. A model that crashes its worker or runs past the
time limit is a failed row, and a new worker takes the next one.
"""

import argparse
import contextlib
import fnmatch
import json
import os
import queue
import selectors
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from tests.compatibility.checks import Check, Result
from tests.compatibility.report import load_results, save_results, write_page

_RESULT = "RESULT "


class Worker:
    """A process that checks the models whose names it is sent."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.compatibility", "--worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )

    def check(self, name: str, limit: float) -> Result:
        """The result of one model; `dead` afterwards where it took the process with it."""
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(name + "\n")
        process.stdin.flush()
        deadline = time.monotonic() + limit
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.stop()
                    return failed(name, f"took more than {limit:.0f} s", limit)
                line = process.stdout.readline()
                if line.startswith(_RESULT):
                    fields = json.loads(line.removeprefix(_RESULT))
                    checks = {k: Check(**v) for k, v in fields.pop("checks").items()}
                    return Result(**fields, checks=checks)
                if not line:
                    code = process.wait()
                    return failed(name, f"the process ended with exit status {code}", 0.0)

    @property
    def dead(self) -> bool:
        return self.process.poll() is not None

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def failed(name: str, cause: str, seconds: float) -> Result:
    return Result(name, {}, {"process": Check(False, None, cause)}, seconds)


def work() -> None:
    """The worker's side: names in on stdin, results out on stdout."""
    import torch

    from tests.compatibility.catalogue import models
    from tests.compatibility.checks import check_model

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    catalogue = models()
    for line in sys.stdin:
        name = line.strip()
        with contextlib.redirect_stdout(sys.stderr):
            result = check_model(name, catalogue[name])
        print(_RESULT + json.dumps(asdict(result)), flush=True)


def sweep(
    names: list[str], jobs: int, limit: float, keep: Callable[[dict[str, Result]], None]
) -> None:
    """Check all ``names``, ``jobs`` at a time, and ``keep`` the results after each."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in names:
        waiting.put(name)
    results: dict[str, Result] = {}
    lock = threading.Lock()

    def serve() -> None:
        worker = Worker()
        try:
            while True:
                try:
                    name = waiting.get_nowait()
                except queue.Empty:
                    return
                if worker.dead:
                    worker = Worker()
                result = worker.check(name, limit)
                with lock:
                    results[name] = result
                    keep(results)
                state = "ok  " if result.passed else "FAIL"
                causes = "; ".join(
                    f"{k}: {c.error if c.error is not None else c.note}"
                    for k, c in result.failures().items()
                )
                done = f"{len(results)}/{len(names)}"
                print(f"{done:>8} {state} {name} {result.seconds:.1f} s {causes}", flush=True)
        finally:
            worker.stop()

    threads = [threading.Thread(target=serve) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.compatibility", description=__doc__)
    parser.add_argument("--output", type=Path, help="the page, such as docs/compatibility.md")
    parser.add_argument("--only", default="*", help="names to check, shell style")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds for one model")
    parser.add_argument("--json", type=Path, help="default: results/compatibility.json beside it")
    parser.add_argument("--update", action="store_true", help="keep the other rows of the page")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work()
        return 0
    from tests.compatibility.catalogue import models

    catalogue = list(models())
    names = [n for n in catalogue if fnmatch.fnmatchcase(n, arguments.only)]
    if not names:
        parser.error(f"--only {arguments.only!r} matches none of {len(catalogue)} models")
    known: dict[str, Result] = {}
    data = arguments.json
    if arguments.output and data is None:
        data = arguments.output.parent / "results" / "compatibility.json"
    if arguments.update and data is not None and data.exists():
        known = {result.name: result for result in load_results(data)}

    def keep(results: dict[str, Result]) -> None:
        known.update(results)
        if data is not None:
            save_results(data, [known[name] for name in catalogue if name in known])

    begin = time.monotonic()
    sweep(names, arguments.jobs, arguments.limit, keep)
    seconds = time.monotonic() - begin
    bad = [name for name in names if not known[name].passed]
    print(f"{len(names) - len(bad)} of {len(names)} pass, {seconds:.0f} s")
    if arguments.output:
        write_page(arguments.output, [known[name] for name in catalogue if name in known])
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
