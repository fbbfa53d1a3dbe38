"""The engine beside `higher`, TorchOpt, MixFlow by hand and plain training, in turns.

    python -m tests.benchmarks.hypergradient --json FILE

A case is a network, a number of inner steps K of SGD, and a tool (see `tools`) that takes the
gradient of the outer loss for the inner images, which are the same in every step. Both losses are
taken in train mode, so that all differentiate the same function. What the trainer does by itself
has a row for each stage of a run: traced at first, then with 1 GiB for activations and channels
last, in the end compiled. "bf16" is the last of them under autocast. All keep freed memory. Large
networks take ten minutes to compile, so their last stage is the traced one.

The tools of a network and K are in processes of their own and take turns, round after round, so
that a ratio is taken between neighbors in time and its median is not moved by what else a machine
does. All stay in memory meanwhile; `--tools` chooses some where they do not fit, and `higher` and
plain training are always beside them. Reported per case: seconds of one hypergradient, ratios to
`higher` and to plain training, peak memory over the memory before it, seconds of the warm-up
(compiling included), the ratio to the time of the convolutions and linear layers alone
(`convolutions`), and the relative difference of the gradient from that of `higher`: rounding moves
activations across the corner of a ReLU, and the training amplifies that.

`higher` and TorchOpt come with the extra ``bench``; where one is missing or fails, its row says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.convolutions import floor_of, judging_floor
from tests.benchmarks.measuring import Results, Served, in_turns
from tests.benchmarks.tools import Memory, make, runner

NETWORKS: dict[str, dict[str, Any]] = {
    "ConvNet, width 32, 100 images": {
        "model": "convnet",
        "width": 32,
        "images": 100,
        "outer_images": 128,
    },
    "ConvNet, width 128, 10 images": {
        "model": "convnet",
        "width": 128,
        "images": 10,
        "outer_images": 32,
    },
    "ResNet-18, 20 images": {"model": "resnet18", "images": 20, "outer_images": 32},
    "ViT-Tiny, 64x64, 10 images": {
        "model": "vit_tiny_patch16_224",
        "images": 10,
        "outer_images": 16,
    },
}
STEPS = (5, 20)
_OURS = {"at first": "ours traced", "long runs": "ours traced keeping last"}
_COMPILED = {"compiled": "ours keeping last", "bf16": "ours keeping last bf16"}
_TRACED = {"bf16": "ours traced keeping last bf16"}
_OTHERS = {
    "higher": "higher",
    "torchopt": "torchopt",
    "mixflow by hand": "mixflow",
    "plain training": "plain eager",
}
_COMPARED_TO = ("higher", "plain training")
KEYS = ("network", "steps", "tool")


def tools_of(network: str) -> dict[str, str]:
    """The rows of a network, and the tools behind them."""
    is_small = NETWORKS[network]["model"] == "convnet"
    return {**_OURS, **(_COMPILED if is_small else _TRACED), **_OTHERS}


# --- one case, in a process of its own -----------------------------------------------------------


def serve(case: dict[str, Any], threads: int, gradient_file: str) -> None:
    """Warm up, then take one hypergradient for every line on standard input, reporting in JSON."""
    torch.set_num_threads(threads)
    if case["tool"].startswith("ours"):
        from dd_plugin import keep_freed_memory

        keep_freed_memory()
    began = time.perf_counter()
    run = runner(case, "cpu")
    gradient, _ = run()
    warm_up = time.perf_counter() - began
    if gradient is not None:
        torch.save(gradient.detach(), gradient_file)
    del gradient
    print("READY " + json.dumps({"warm_up_seconds": warm_up, **_floor(case)}), flush=True)
    for _ in sys.stdin:
        memory = Memory("cpu")
        began = time.perf_counter()
        run()
        seconds = time.perf_counter() - began
        peak = memory.peak()
        print("TOOK " + json.dumps({"seconds": seconds, "peak_bytes": peak}), flush=True)


def _floor(case: dict[str, Any]) -> dict[str, float]:
    if not case["tool"].startswith("ours") or "bf16" in case["tool"]:
        return {}
    model, (x, _), (real, _) = make(case, "cpu")
    each = floor_of(model, x, kept="keeping" in case["tool"])
    return {"floor_seconds": case["steps"] * each + judging_floor(model, real)}


# --- the whole run -------------------------------------------------------------------------------


class Child(Served):
    """A tool of a case, ready to be measured."""

    def __init__(self, case: dict[str, Any], threads: int, folder: Path) -> None:
        self.gradient = folder / f"{case['tool']}.pt"
        command = [sys.executable, "-m", "tests.benchmarks.hypergradient"]
        command += ["--case", json.dumps(case), "--gradient", str(self.gradient)]
        super().__init__([*command, "--threads", str(threads)], {})
        self.about: dict[str, float] = json.loads(self.wait_for("READY "))
        self.rounds: list[dict[str, float]] = []


def measure(
    network: str, steps: int, tools: dict[str, str], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """The rows of tools on a network."""
    children: dict[str, Child] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, tool in tools.items():
            case = {**NETWORKS[network], "optimizer": "sgd", "steps": steps, "tool": tool}
            try:
                children[name] = Child(case, options.threads, Path(folder))
            except RuntimeError as error:
                failed[name] = str(error)
        for name in in_turns(list(children), options.repeats):
            children[name].rounds.append(children[name].measure())
        for child in children.values():
            child.end()
        same = {"network": network, "steps": steps}
        rows = [{**same, "tool": name, **_row(name, children)} for name in children]
        return rows + [{**same, "tool": name, "error": why} for name, why in failed.items()]


def _row(name: str, children: dict[str, Child]) -> dict[str, Any]:
    child = children[name]
    seconds = [one["seconds"] for one in child.rounds]
    row: dict[str, Any] = {
        "seconds": statistics.median(seconds),
        "peak_bytes": max(one["peak_bytes"] for one in child.rounds),
        "rounds": len(seconds),
        "warm_up_seconds": child.about["warm_up_seconds"],
    }
    for key, other in (("higher", "higher"), ("plain", "plain training")):
        if other in children and other != name:
            pairs = zip(seconds, (one["seconds"] for one in children[other].rounds), strict=True)
            ratios = [a / b for a, b in pairs]
            row[f"ratio_to_{key}"] = statistics.median(ratios)
            row[f"ratios_to_{key}"] = [min(ratios), max(ratios)]
    if "floor_seconds" in child.about:
        row["ratio_to_convolutions"] = row["seconds"] / child.about["floor_seconds"]
    reference = children.get("higher")
    if reference is not None and reference is not child and child.gradient.exists():
        found, expected = (
            torch.load(c.gradient, weights_only=True).double() for c in (child, reference)
        )
        row["difference_from_higher"] = float((found - expected).norm() / expected.norm())
    return row


def _chosen(network: str, rows: list[str] | None) -> dict[str, str]:
    tools = tools_of(network)
    if rows is None:
        return tools
    if unknown := set(rows) - set(tools):
        raise SystemExit(f"--tools must be of {', '.join(tools)}, got {', '.join(unknown)}")
    return {name: tool for name, tool in tools.items() if name in {*rows, *_COMPARED_TO}}


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write results here, beside those that are there")
    parser.add_argument("--networks", nargs="*", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--steps", nargs="*", type=int, default=list(STEPS))
    parser.add_argument("--tools", nargs="*", help="rows, beside the two that all are compared to")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--gradient", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        serve(json.loads(options.case), options.threads, options.gradient)
        return
    torch.set_num_threads(options.threads)
    results = Results(options.json, "python -m tests.benchmarks.hypergradient", KEYS)
    for network in options.networks:
        for steps in options.steps:
            tools = _chosen(network, options.tools)
            rows = [{"network": network, "steps": steps, "tool": tool} for tool in tools]
            if any(row not in results for row in rows):
                results.add(measure(network, steps, tools, options))


if __name__ == "__main__":
    main()
