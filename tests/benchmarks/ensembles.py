"""Several networks, one after the other or batched: what `hypergradients` costs in its two modes.

Run as ``python -m tests.benchmarks.ensembles --json docs/results/ensembles-cpu.json``. Every case
(size, number of networks, eager or compiled) is measured in a process of its own: after a warm-up
of each mode, one call of each in turn, round after round. A ratio is the median over the rounds of
the batched call's time divided by the sequential one's in the same round; its spread are the
quartiles. Peak memory is that of a call over the memory before it, as in
`tests.benchmarks.tools`.

A call is the hypergradient of the mean outer loss for the inner images, by SGD steps of the field's
ConvNet (three blocks, BatchNorm) in float32; the sizes are in `SIZES`. Cases that the JSON file
already has and that are not measured again stay in it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dd_plugin.bilevel import BilevelProblem, hypergradients, initial_state, sgd
from tests.benchmarks.layers import ROOT, environment, spread, synchronize
from tests.benchmarks.tools import Memory

SIZES: dict[str, dict[str, int]] = {
    "small": {"width": 16, "images": 10, "channels": 1, "side": 28, "outer": 100, "steps": 10},
    "large": {"width": 64, "images": 100, "channels": 3, "side": 32, "outer": 256, "steps": 3},
}
NETWORKS = (2, 4, 8)
MODES = ("sequential", "batched")
CLASSES = 10


# --- one case ----------------------------------------------------------------------------------


def convnet(width: int, channels: int, side: int) -> nn.Module:
    """Three blocks of convolution, BatchNorm, ReLU and average pooling, and a linear layer."""
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width)]
        layers += [nn.ReLU(), nn.AvgPool2d(2)]
        channels, side = width, side // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * side**2, CLASSES))


def calls(args: argparse.Namespace) -> tuple[BilevelProblem, dict[str, Callable[[], Any]]]:
    """The problem, and for each mode a function that takes one hypergradient."""
    torch.manual_seed(0)
    device, size = args.device, SIZES[args.size]
    shape = (size["channels"], size["side"], size["side"])

    def batch(images: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(images, device=device) % CLASSES
        return torch.randn(images, *shape, device=device), labels

    def network() -> nn.Module:
        return convnet(size["width"], size["channels"], size["side"]).to(device)

    problem = BilevelProblem(network(), optimizer=sgd(), compile=args.compile)
    networks = [initial_state(problem, network()) for _ in range(args.networks)]
    batches, outer = [batch(size["images"])] * size["steps"], batch(size["outer"])

    def call(mode: str) -> Callable[[], Any]:
        return lambda: (
            hypergradients(
                problem, batches, outer, networks, mode=mode, step_size=0.01
            ).mean.batches
        )

    return problem, {mode: call(mode) for mode in MODES}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """One case: seconds and peak memory of both modes, and the ratio of their times."""
    if args.threads:
        torch.set_num_threads(args.threads)
    problem, run = calls(args)
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    peaks: dict[str, list[int]] = {mode: [] for mode in MODES}
    warm_up = {}
    for mode in MODES:
        began = time.perf_counter()
        run[mode]()
        warm_up[mode] = time.perf_counter() - began
    order, began = list(MODES), time.perf_counter()
    while len(seconds["batched"]) < args.repeats or time.perf_counter() - began < args.seconds:
        for mode in order:
            memory = Memory(args.device)
            start = time.perf_counter()
            run[mode]()
            synchronize(torch.device(args.device))
            seconds[mode].append(time.perf_counter() - start)
            peaks[mode].append(memory.peak())
        order.reverse()
    batched: Any = problem.compiled["batched", args.networks, False]
    if not problem.compiling == batched.compiling == args.compile:
        raise RuntimeError("the compiler failed and the engine went on eagerly")
    return {
        "size": args.size,
        "networks": args.networks,
        "compiled": args.compile,
        "device": args.device,
        "threads": torch.get_num_threads(),
        "rounds": len(seconds["batched"]),
        "seconds": {mode: statistics.median(times) for mode, times in seconds.items()},
        "peak_bytes": {mode: statistics.median(values) for mode, values in peaks.items()},
        "warm_up_seconds": warm_up,
        "ratio": spread(seconds["batched"], seconds["sequential"]),
    }


# --- the file ----------------------------------------------------------------------------------


def key(case: dict[str, Any]) -> tuple[int, bool, int]:
    """What tells cases apart, and their order."""
    return list(SIZES).index(case["size"]), case["compiled"], case["networks"]


def merged(path: Path, case: dict[str, Any]) -> dict[str, Any]:
    """The content of the JSON file with one more case, or with this case measured again."""
    report: dict[str, Any] = {"environment": environment(), "sizes": SIZES, "cases": []}
    if path.exists():
        before = json.loads(path.read_text())
        if any(before[k] != report[k] for k in ("environment", "sizes")):
            raise SystemExit(f"{path} holds measurements of another environment; use another file")
        report["cases"] = [old for old in before["cases"] if key(old) != key(case)]
    report["cases"] = sorted([*report["cases"], case], key=key)
    return report


# --- command line ------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tests.benchmarks.ensembles", description=__doc__)
    made.add_argument("--json", type=Path, default=ROOT / "docs/results/ensembles-cpu.json")
    made.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=tuple(SIZES))
    made.add_argument("--networks", nargs="+", type=int, default=NETWORKS)
    made.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: both")
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    made.add_argument("--device", default=default_device, choices=("cpu", "cuda"))
    made.add_argument("--threads", type=int, default=2, help="0: as many as torch wants")
    made.add_argument("--repeats", type=int, default=3, help="rounds at least")
    made.add_argument("--seconds", type=float, default=20.0, help="rounds until then")
    made.add_argument("--case", type=Path, help=argparse.SUPPRESS)  # a child: its one case
    return made


def measure_in_child(arguments: list[str]) -> dict[str, Any]:
    """One case in a fresh process; its output goes to this one's stderr."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "case.json"
        command = [sys.executable, "-m", "tests.benchmarks.ensembles", *arguments]
        subprocess.run([*command, "--case", str(result)], check=True, cwd=ROOT, stdout=sys.stderr)
        case: dict[str, Any] = json.loads(result.read_text())
    return case


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    if args.case is not None:
        args.size, args.networks, args.compile = args.sizes[0], args.networks[0], bool(args.compile)
        args.case.write_text(json.dumps(measure(args)))
        return
    common = [f"--{n}={getattr(args, n)}" for n in ("device", "threads", "repeats", "seconds")]
    paths = (False, True) if args.compile is None else (args.compile,)
    for size, path, networks in product(args.sizes, paths, args.networks):
        flag = "--compile" if path else "--no-compile"
        case = measure_in_child([*common, flag, f"--sizes={size}", f"--networks={networks}"])
        report = merged(args.json, case)
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n")
        print(f"{size} {flag.lstrip('-')} {networks}: {case['ratio']['median']:.2f}", flush=True)


if __name__ == "__main__":
    main()
