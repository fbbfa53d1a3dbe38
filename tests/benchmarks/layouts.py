"""Hypergradients with contiguous tensors and with channels last, in turns.

    python -m tests.benchmarks.layouts --json docs/results/layouts.json

One process with one thread per network, way and precision; a compiled case keeps all activations,
as trainers do. Reported per case: seconds of a hypergradient in both layouts, their ratio in the
same round (median and range), the seconds of the warm-up, the relative difference of the gradients
for the images, and whether both are finite.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dd_plugin import keep_freed_memory
from dd_plugin.bilevel import BilevelProblem, Device, hypergradient
from tests.benchmarks.measuring import Results, in_turns
from tests.benchmarks.tools import KEEPING, STEP_SIZE, make

NETWORKS: dict[str, dict[str, Any]] = {
    "ConvNet, width 32, 100 images": {"model": "convnet", "width": 32, "images": 100},
    "ConvNet, width 128, 10 images": {"model": "convnet", "width": 128, "images": 10},
    "ResNet-18, 20 images": {"model": "resnet18", "images": 20},
}
_STEPS, _OUTER_IMAGES = 3, 32
CASES = tuple(
    {"network": network, "how": how, "precision": precision}
    for how in ("traced", "compiled")
    for network in NETWORKS
    for precision in ("float32", "bfloat16")
    # Minutes of compiling for each layout.
    if not (network.startswith("ResNet") and how == "compiled")
)


def gradient_of(case: dict[str, Any], channels_last: bool) -> Callable[[], Tensor]:
    """A function that takes the gradient for the images of a case."""
    network = NETWORKS[case["network"]] | {"outer_images": _OUTER_IMAGES}
    model, batch, outer = make(network, "cpu")
    compiled = case["how"] == "compiled"
    problem = BilevelProblem(
        model,
        outer_training=True,
        compile=True if compiled else "trace",
        channels_last=channels_last,
        autocast=torch.bfloat16 if case["precision"] == "bfloat16" else None,
        verify=False,
    )
    storage = Device(activations=KEEPING if compiled else 0)

    def run() -> Tensor:
        batches = [batch] * _STEPS
        result = hypergradient(problem, batches, outer, step_size=STEP_SIZE, storage=storage)
        return torch.stack([b.images for b in result.batches.values()]).sum(0)

    return run


def compare(case: dict[str, Any], rounds: int) -> dict[str, Any]:
    """The row of a case."""
    runs = {last: gradient_of(case, last) for last in (False, True)}
    warm_up: dict[bool, float] = {}
    gradients: dict[bool, Tensor] = {}
    for last, run in runs.items():
        began = time.perf_counter()
        gradients[last] = run()
        warm_up[last] = time.perf_counter() - began
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for last in in_turns([False, True], rounds):
        began = time.perf_counter()
        runs[last]()
        seconds[last].append(time.perf_counter() - began)
    ratios = [a / b for a, b in zip(seconds[True], seconds[False], strict=True)]
    names = {False: "contiguous", True: "channels_last"}
    return {
        **case,
        "seconds": {names[last]: statistics.median(taken) for last, taken in seconds.items()},
        "ratio": statistics.median(ratios),
        "ratios": [min(ratios), max(ratios)],
        "warm_up_seconds": {names[last]: taken for last, taken in warm_up.items()},
        "difference": float((gradients[True] - gradients[False]).norm() / gradients[False].norm()),
        "finite": all(bool(g.isfinite().all()) for g in gradients.values()),
        "rounds": rounds,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if args.case is not None:
        keep_freed_memory()
        print(json.dumps(compare(args.case, args.rounds)))
        return
    command = "python -m tests.benchmarks.layouts --json FILE"
    results = Results(args.json, command, ("network", "how", "precision"))
    for case in CASES:
        if case in results:
            continue
        line = [sys.executable, "-m", "tests.benchmarks.layouts", "--rounds", str(args.rounds)]
        done = subprocess.run(
            [*line, "--case", json.dumps(case)], stdout=subprocess.PIPE, text=True, check=True
        )
        results.add([json.loads(done.stdout.splitlines()[-1])])


if __name__ == "__main__":
    main()
