"""The order of a run: parts in turn, each in its share of the time, whatever becomes of a case.

Cases run in a process of their own (`worker`). A case that raises is a row with an error; one that
hangs or kills the process is one as well, and the next case gets a new process. When the time of a
part is over, the case under way is ended and left for a later run.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.gpu.plan import PARTS, RECIPES, SHARES, cases, limit_of
from tests.gpu.records import Journal, Row, code_version, take_over
from tests.gpu.worker import DONE, READY, ROW
from tests.repository import ROOT

_START_LIMIT = 120.0  # seconds until a new process has imported everything
_GRACE = 10.0  # seconds over the whole time that the last slice may take to end
_PREPARATION = 60.0  # seconds over its own time that a slice may take to read its data and to end
_SHORTEST_SLICE = 45.0  # seconds
_TOY_SLICE = 2.0
_MESSAGES = 800  # characters of a dead process's messages


@dataclass(frozen=True)
class Options:
    """What the command was given."""

    out: Path
    device: str
    size: str = "full"
    minutes: float = 12.0
    data: Path | None = None
    resume: Path | None = None
    parts: tuple[str, ...] = PARTS
    match: str = ""  # a regular expression; cases and recipes without it are left out
    compile: str = ""  # how recipes are run: as a trainer's setting; the faster way by default


class OutOfTimeError(Exception):
    """The time of a part was over before its case was."""


class Worker:
    """A process that runs the cases of one part.

    Attributes:
        module: what it runs.
    """

    module = "tests.gpu.worker"

    def __init__(self, part: str, options: Options) -> None:
        self._messages = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `stop` closes it
        self._process = subprocess.Popen(
            [sys.executable, "-m", self.module, part, options.device, options.size],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            text=True,
            start_new_session=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def line(self, until: float) -> str:
        """The next line of the protocol.

        Raises:
            TimeoutError: none came in time.
            RuntimeError: the process has ended.
        """
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise TimeoutError from None
            if line is None:
                status = self._process.wait()
                self._messages.seek(0)
                said = self._messages.read()[-_MESSAGES:]
                raise RuntimeError(f"the process ended with status {status}: {said}")
            if line.startswith((READY, ROW, DONE)):
                return line

    def run(self, case: Row, until: float) -> Iterator[Row]:
        """The rows of a case, as they come. Raises as `line` does."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        while (line := self.line(until)) != DONE:
            yield json.loads(line.removeprefix(ROW))

    def stop(self) -> None:
        """End the process, however busy, and those that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        for file in (self._process.stdin, self._process.stdout, self._messages):
            assert file is not None
            with contextlib.suppress(BrokenPipeError):  # of a case that was never read
                file.close()


class Part:
    """One part under way.

    Args:
        name: of `PARTS`.
        options: of the command.
        until: the end of its time, on the monotonic clock.
    """

    def __init__(self, name: str, options: Options, until: float) -> None:
        self.name, self.options, self.until = name, options, until
        self.journal = Journal(options.out / f"{name}.jsonl")
        self.code = code_version()
        self._worker: Worker | None = None
        self._device = ""

    def worker(self) -> Worker:
        """A process that is ready.

        Raises:
            RuntimeError, TimeoutError: it does not get ready.
        """
        if self._worker is None:
            self._worker = Worker(self.name, self.options)
            start = min(self.until, time.monotonic() + _START_LIMIT)
            about = json.loads(self._worker.line(start).removeprefix(READY))
            if not self._device:
                self.journal.add({"about": about})
            self._device = about["device"]
        return self._worker

    def stop(self) -> None:
        """End its process."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def add(self, case: Row, row: Row) -> None:
        """Write a row, and say it in a line."""
        self.journal.add({"case": case, **row, "device": self._device, "code": self.code})
        shown = {k: v for k, v in row.items() if k not in ("traceback", "slowest")}
        print(f"{self.name}: {json.dumps(case)} {json.dumps(shown)}"[:400], flush=True)

    def rows_of(self, case: Row, limit: float) -> Iterator[Row]:
        """The rows of a case; a failure of any kind is one.

        Raises:
            OutOfTimeError: the part's time is over first.
        """
        until = min(time.monotonic() + limit, self.until)
        try:
            worker = self.worker()
            until = min(time.monotonic() + limit, self.until)
            yield from worker.run(case, until)
        except TimeoutError:
            self.stop()
            if time.monotonic() >= self.until:
                raise OutOfTimeError from None
            yield {"error": f"given up after {limit:.0f} seconds"}
        except (RuntimeError, OSError) as error:
            self.stop()
            yield {"error": f"{type(error).__name__}: {error}"}

    def run_cases(self) -> None:
        """All cases that have no result yet, as far as the time goes."""
        for case in cases(self.name, self.options.size):
            wanted = re.search(self.options.match, json.dumps(case))
            if not wanted or self.journal.is_done(case, self.code):
                continue
            if time.monotonic() >= self.until:
                return
            try:
                for row in self.rows_of(case, limit_of(case)):
                    self.add(case, row)
            except OutOfTimeError:
                self.add(case, {"unfinished": "the time of the part was over"})
                return

    def run_slices(self, compile: str) -> None:
        """Slices of the recipe that is furthest behind, until the time is over.

        At toy size every recipe has one short slice.
        """
        toy = self.options.size == "toy"
        until, self.until = self.until, self.until + _GRACE
        # Recipes that get no more slices.
        over = {name for name in RECIPES if not re.search(self.options.match, name)}
        while until - time.monotonic() > _SHORTEST_SLICE and len(over) < len(RECIPES):
            left = until - time.monotonic()
            alone = len(over) == len(RECIPES) - 1
            shared = left if alone else min(left, max(_SHORTEST_SLICE, left / 2))
            seconds = _TOY_SLICE if toy else shared
            recipe = furthest_behind(self.journal, over)
            succeeded = self._slice(recipe, compile, seconds)
            if toy or not succeeded:
                over.add(recipe)

    def _slice(self, recipe: str, compile: str, seconds: float) -> bool:
        """Run one slice; returns whether it came to its end."""
        curve = curve_of(self.journal, recipe)
        case = {
            "check": "distill",
            "recipe": recipe,
            "seconds": seconds,
            "before": curve[-1]["seconds"] if curve else 0.0,
            "compile": curve[-1]["compile"] if curve and not self.options.compile else compile,
            "data": str(self.options.data.resolve()) if self.options.data else None,
            "out": str(self.options.out.resolve()),
        }
        row: Row = {"error": "no rows"}
        name = {"recipe": recipe}
        try:
            for row in self.rows_of(case, seconds + _PREPARATION):
                if "accuracy_mean" in row:
                    facts = {"compile": case["compile"], "noise": case["data"] is None}
                    self.add({**name, "step": row["step"]}, {**row, **facts})
                else:
                    number = sum("slice" in r["case"] for r in self.journal.rows.values())
                    self.add({**name, "slice": number}, row)
        except OutOfTimeError:
            self.add({**name, "slice": -1}, {"unfinished": "the time of the part was over"})
            return False
        return "error" not in row


def curve_of(journal: Journal, recipe: str) -> list[Row]:
    """The evaluations of a recipe, in order."""
    rows = journal.rows.values()
    mine = [row for row in rows if row["case"].get("recipe") == recipe and "accuracy_mean" in row]
    return sorted(mine, key=lambda row: row["step"])


def furthest_behind(journal: Journal, without: set[str]) -> str:
    """The recipe whose last accuracy is furthest from the published one; untried ones first."""

    def distance(recipe: str) -> float:
        curve = curve_of(journal, recipe)
        return RECIPES[recipe]["published"] - (curve[-1]["accuracy_mean"] if curve else 0.0)

    return max((name for name in RECIPES if name not in without), key=distance)


def fastest_way(fast: Journal) -> str:
    """How a ConvNet's hypergradient took the least time, as the trainer's setting ``compile``."""
    ways = {"ours traced": "trace", "ours compiled": "inductor"}
    seconds = {
        ways[row["case"]["tool"]]: row["seconds"]
        for row in sorted(fast.rows.values(), key=lambda row: row["case"].get("steps", 0))
        if row["case"].get("model") == "convnet"
        and row["case"].get("tool") in ways
        and "seconds" in row
    }
    return min(seconds, key=seconds.__getitem__, default="trace")


def run(options: Options) -> None:
    """Everything that the options ask for; results are in ``options.out``."""
    began = time.monotonic()
    whole = 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    if options.resume is not None:
        take_over(options.resume, options.out, ("*.jsonl", "good-*.zip"))
    for name in options.parts:
        # The shares are of the whole time; the last part that is asked for gets all that is left.
        left = began + whole - time.monotonic()
        last = name == options.parts[-1]
        share = 1.0 if last or options.size == "toy" else SHARES[name]
        until = time.monotonic() + min(left, share * whole)
        part = Part(name, options, until)
        try:
            if name == "good":
                found = fastest_way(Journal(options.out / "fast.jsonl"))
                part.run_slices(options.compile or found)
            else:
                part.run_cases()
        finally:
            part.stop()
