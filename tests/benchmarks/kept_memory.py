"""Hypergradients by processes that keep freed memory and by processes that do not, in turns.

    python -m tests.benchmarks.kept_memory --json docs/results/kept-memory.json

Reported per case: seconds of a hypergradient, the ratio of kept over not kept (median and range
over the rounds), page faults, the ratio of the peaks of resident memory, and whether both gradients
are the same to the bit.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.measuring import Results, Served, in_turns

CASES = (
    {"network": "ConvNet, width 32", "images": 10, "steps": 10},
    {"network": "ConvNet, width 32", "images": 100, "steps": 5},
    {"network": "timm resnet18", "images": 20, "steps": 3},
)
WAYS = ("without", "with")


def serve(case: dict[str, Any], gradient: Path, *, keep: bool) -> None:
    """Take a hypergradient for every line of input; print what each took."""
    if keep:
        from dd_plugin import keep_freed_memory

        assert keep_freed_memory()
    from tests.benchmarks.two_trees import hypergradient_of

    torch.set_num_threads(1)
    run = hypergradient_of({**case, "how": "traced"})
    torch.save(run(), gradient)
    print("READY", flush=True)
    for _ in sys.stdin:
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        run()
        after = resource.getrusage(resource.RUSAGE_SELF)
        values = {
            "seconds": time.perf_counter() - began,
            "faults": after.ru_minflt - before.ru_minflt,
            "memory": after.ru_maxrss,
        }
        print("TOOK " + json.dumps(values), flush=True)


def _child(way: str, case: dict[str, Any], gradient: Path) -> Served:
    command = [sys.executable, "-m", __spec__.name, "--serve", way, json.dumps(case), str(gradient)]
    # As the command has it.
    return Served(command, {"THP_MEM_ALLOC_ENABLE": "1"})


def compare(case: dict[str, Any], rounds: int) -> dict[str, Any]:
    """The row of a case."""
    taken: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        files = {way: Path(folder) / f"{way}.pt" for way in WAYS}
        children = {way: _child(way, case, files[way]) for way in WAYS}
        for child in children.values():
            child.wait_for("READY")
        for way in in_turns(list(WAYS), rounds):
            taken[way].append(children[way].measure())
        for child in children.values():
            child.end()
        first, second = (torch.load(file) for file in files.values())

    def median(name: str) -> dict[str, float]:
        return {way: statistics.median(one[name] for one in taken[way]) for way in WAYS}

    pairs = zip(taken["with"], taken["without"], strict=True)
    ratios = [kept["seconds"] / other["seconds"] for kept, other in pairs]
    memory = median("memory")
    return {
        **case,
        "seconds": median("seconds"),
        "ratio": statistics.median(ratios),
        "ratios": [min(ratios), max(ratios)],
        "faults": median("faults"),
        "memory_ratio": memory["with"] / memory["without"],
        "same_to_the_bit": torch.equal(first, second),
        "rounds": rounds,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)  # a child: its one case
    args = parser.parse_args(argv)
    if args.serve is not None:
        way, case, gradient = args.serve
        serve(json.loads(case), Path(gradient), keep=way == "with")
        return
    command = "python -m tests.benchmarks.kept_memory --json FILE"
    results = Results(args.json, command, ("network", "images", "steps"))
    for case in CASES:
        if case not in results:
            results.add([compare(case, args.rounds)])


if __name__ == "__main__":
    main()
