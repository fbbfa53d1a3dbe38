"""How long `dd-plugin distill` takes to its help, to an error and to its first outer step.

    git worktree add --detach /tmp/before COMMIT
    python -m tests.benchmarks.start_up --before /tmp/before --json docs/results/start-up.json

Every measurement is a fresh process on one thread, with the files of Python compiled by a run that
is not counted. With ``--before`` a process of that checkout and one of this take turns. Reported
per case: medians of the seconds and of the processor's seconds, and the ratio of the latter (median
and range over the rounds), which other work on the machine moves less.

The process ends with the first outer step, before anything is evaluated or written.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.measuring import ROOT, Results, in_turns

# Words of the command, by what they lead to.
COMMANDS = {
    "help": ["--help"],
    "a misspelled option": ["--imag_per_class=3"],
    "a wrong value": ["--window=sometimes"],
}
TRAINER = "the trainer on the digits, after its import"
FIRST_STEP = "the first outer step on the digits"
CASES = (*COMMANDS, TRAINER, FIRST_STEP)
MISTAKES = ("a misspelled option", "a wrong value")

CONSTRUCTION = """
import json, time
from dd_plugin import Distiller, DistillerConfig
config = DistillerConfig(output_dir={folder!r}, save_steps=0, disable_tqdm=True)
wall, cpu = time.perf_counter(), time.process_time()
Distiller(config=config)
print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]))
"""
# The command without options, whose process ends with the first outer step.
STEP = """
import os, sys
from importlib.machinery import PathFinder
from dd_plugin.cli import main

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "dd_plugin.distiller.distiller":
            return None
        spec = PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def with_last_step(module):
            run(module)
            step = module.Distiller.training_step
            module.Distiller.training_step = lambda self: os._exit(step(self) is None)

        spec.loader.exec_module = with_last_step
        return spec

sys.meta_path.insert(0, Finder())
raise SystemExit(main(["distill", "--output_dir={folder}"]) or 1)
"""
PROGRAMS = {TRAINER: CONSTRUCTION, FIRST_STEP: STEP}


def measure(case: str, tree: Path) -> tuple[float, float]:
    """Seconds and seconds of the processor that a case takes a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "dd_plugin", "distill", *COMMANDS.get(case, ())]
        if case in PROGRAMS:
            words = ["-c", PROGRAMS[case].format(folder=folder)]
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # The pipes are small enough to be read afterwards: wait4 alone tells what was used.
        _, status, used = os.wait4(process.pid, 0)
        wall, cpu = time.perf_counter() - began, used.ru_utime + used.ru_stime
        process.returncode = os.waitstatus_to_exitcode(status)
        printed, told = process.communicate()
    if process.returncode != (2 if case in MISTAKES else 0):
        raise RuntimeError(f"{case}: exit {process.returncode}: {told[-600:]}")
    if case == TRAINER:
        wall, cpu = json.loads(printed.splitlines()[-1])
    return wall, cpu


def row_of(case: str, trees: dict[str, Path], rounds: int) -> dict[str, Any]:
    """The row of a case: medians of each checkout, and the ratio of this one over the other."""
    taken: dict[str, list[tuple[float, float]]] = {which: [] for which in trees}
    for which in trees:
        measure(case, trees[which])
    for which in in_turns(list(trees), rounds):
        taken[which].append(measure(case, trees[which]))
    medians = {
        which: [statistics.median(values) for values in zip(*pairs, strict=True)]
        for which, pairs in taken.items()
    }
    row: dict[str, Any] = {
        "what": case,
        "seconds": {which: wall for which, (wall, _) in medians.items()},
        "cpu": {which: cpu for which, (_, cpu) in medians.items()},
        "rounds": rounds,
    }
    if "before" in taken:
        pairs = zip(taken["now"], taken["before"], strict=True)
        ratios = [now[1] / before[1] for now, before in pairs]
        row |= {"ratio": statistics.median(ratios), "ratios": [min(ratios), max(ratios)]}
    return row


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--before", type=Path, help="a checkout to take turns with")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(argv)
    trees = {"before": args.before.resolve()} if args.before else {}
    trees["now"] = ROOT
    command = "python -m tests.benchmarks.start_up"
    if args.before:
        command += " --before CHECKOUT"
    results = Results(args.json, f"{command} --json FILE", ("what",))
    for case in CASES:
        if {"what": case} not in results:
            results.add([row_of(case, trees, args.rounds)])


if __name__ == "__main__":
    main()
