"""Hypergradients with all activations kept and with none, traced and compiled, in turns.

    python -m tests.benchmarks.kept_activations --json docs/results/kept-activations.json

One process with one thread. Reported per case: seconds of processor time of a hypergradient, their
ratio in the same round (median and range), the megabytes kept, and whether the gradients are the
same to the bit.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dd_plugin import keep_freed_memory
from dd_plugin.bilevel import BilevelProblem, Device, hypergradient
from tests.benchmarks.measuring import Results, in_turns
from tests.benchmarks.two_trees import HOW, NETWORKS

CASES = tuple(
    {"network": network, "images": images, "steps": steps, "how": how}
    for network, images, steps in (
        ("ConvNet, width 32, depth 3, 8 px", 10, 20),
        ("ConvNet, width 32", 10, 10),
        ("ConvNet, width 32", 100, 4),
    )
    for how in ("traced", "compiled")
)
_ALL = 8 << 30


def gradient_of(case: dict[str, Any]) -> tuple[Callable[[int], Tensor], BilevelProblem]:
    """A function of the bytes for activations that takes the gradient for the images of a case."""
    make, _, size = NETWORKS[case["network"]]
    torch.manual_seed(0)
    problem = BilevelProblem(make().train(), compile=HOW[case["how"]], verify=False)
    count = case["images"]
    images, labels = torch.randn(count, 3, size, size), torch.arange(count) % 10
    real = torch.randn(128, 3, size, size), torch.arange(128) % 10

    def run(memory: int) -> Tensor:
        storage, batches = Device(activations=memory), [(images, labels)] * case["steps"]
        result = hypergradient(problem, batches, real, step_size=0.01, storage=storage)
        return torch.stack([b.images for b in result.batches.values()]).sum(0)

    return run, problem


def compare(case: dict[str, Any], rounds: int) -> dict[str, Any]:
    """The row of a case."""
    run, problem = gradient_of(case)
    gradients = {memory: run(memory) for memory in (0, _ALL)}
    halves = [made for key, made in problem.compiled.items() if key[0] == "halves"]
    seconds: dict[int, list[float]] = {0: [], _ALL: []}
    for memory in in_turns([0, _ALL], rounds):
        began = time.process_time()
        run(memory)
        seconds[memory].append(time.process_time() - began)
    ratios = [kept / none for none, kept in zip(seconds[0], seconds[_ALL], strict=True)]
    return {
        **case,
        "seconds": {"none": statistics.median(seconds[0]), "all": statistics.median(seconds[_ALL])},
        "ratio": statistics.median(ratios),
        "ratios": [min(ratios), max(ratios)],
        "kept_bytes": sum(made.kept_bytes for made in halves) * case["steps"],
        "same_to_the_bit": torch.equal(gradients[0], gradients[_ALL]),
        "rounds": rounds,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args(argv)
    keep_freed_memory()
    torch.set_num_threads(1)
    command = "python -m tests.benchmarks.kept_activations --json FILE"
    results = Results(args.json, command, ("network", "images", "steps", "how"))
    for case in CASES:
        if case not in results:
            results.add([compare(case, args.rounds)])


if __name__ == "__main__":
    main()
