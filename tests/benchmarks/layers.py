"""What the converted layer costs: forward and backward of converted models against the original.

Run as ``python -m tests.benchmarks.layers --json docs/results/layers.json``. Every case (model,
pass, eager or compiled) is measured in a process of its own, on models with random weights: the
original twice (the ratio of the two is the noise floor) and its conversions, one pass of each in
turn, round after round. A ratio is the median over the rounds of the time divided by the
original's in the same round; its spread are the quartiles. Wall-clock time and processor time are
both kept, since the latter is steadier on a machine that is shared.

The passes are ``train`` and ``eval``, forward and backward in that mode, and ``inference``,
forward in eval mode without a graph. Cases that the JSON file already has and that are not
measured again stay in it.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

import dd_plugin
from dd_plugin.bn import convert_bn

ROOT = Path(__file__).parents[2]
MODELS = ("resnet50", "efficientnet_b0", "levit_128s")
PASSES = ("train", "eval", "inference")
VARIANTS = ("original", "original again", "learned", "tracked")
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
WARM_UP = 3


# --- one case ----------------------------------------------------------------------------------


def variants(model_name: str, batch: Tensor) -> dict[str, nn.Module]:
    """The original with random weights and statistics that fit them, its copy, its conversions."""
    original = timm.create_model(model_name, pretrained=False).to(batch.device)
    layers = [m for m in original.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.5
    # Statistics of 0 and 1 would let activations grow from layer to layer in eval mode.
    with torch.no_grad():
        for _ in range(4):
            original.train()(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    models = {name: copy.deepcopy(original) for name in VARIANTS}
    convert_bn(models["learned"], statistics="learned")
    convert_bn(models["tracked"], statistics="tracked")
    return models


def step_of(model: nn.Module, name: str, args: argparse.Namespace) -> Callable[[Tensor], None]:
    """One pass through ``model``, compiled if the case says so."""

    def forward(images: Tensor) -> Tensor:
        return model(images)

    # Compiled code is kept by code object: one each, or every variant checks the others' guards.
    forward.__code__ = forward.__code__.replace(co_name=f"forward_{name.replace(' ', '_')}")
    run = torch.compile(forward, fullgraph=True) if args.compile else forward

    def step(images: Tensor) -> None:
        if args.pass_ == "inference":
            with torch.no_grad():
                run(images)
        else:
            run(images).square().mean().backward()

    return step


def prepare(model: nn.Module, pass_: str) -> None:
    """What has to be done between two passes, and is not timed."""
    for parameter in model.parameters():
        parameter.grad = None
    if pass_ == "eval":
        # levit keeps attention biases in eval mode, with the graph that the last backward freed.
        model.train()
    if pass_ != "inference" or model.training:
        model.train(pass_ == "train")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """One case: the seconds of every variant and their ratios to the original."""
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    images = torch.randn(args.batch, 3, args.image, args.image, device=device)
    models = variants(args.model, images)
    steps = {name: step_of(model, name, args) for name, model in models.items()}
    seconds: dict[str, dict[str, list[float]]] = {n: {c: [] for c in CLOCKS} for n in steps}

    def run(name: str) -> dict[str, float]:
        prepare(models[name], args.pass_)
        synchronize(device)
        start = {clock: now() for clock, now in CLOCKS.items()}
        steps[name](images)
        synchronize(device)
        return {clock: now() - start[clock] for clock, now in CLOCKS.items()}

    for name in steps:
        for _ in range(WARM_UP):
            run(name)
    names = list(steps)
    begin, rounds = time.perf_counter(), 0
    while rounds < args.repeats or (rounds < 400 and time.perf_counter() - begin < args.seconds):
        for name in names:
            for clock, value in run(name).items():
                seconds[name][clock].append(value)
        names = names[1:] + names[:1]
        rounds += 1
    return {
        "model": args.model,
        "pass": args.pass_,
        "compiled": args.compile,
        "device": args.device,
        "device_name": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "batch": args.batch,
        "image": args.image,
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "seconds": {
            name: {clock: statistics.median(values) for clock, values in by_clock.items()}
            for name, by_clock in seconds.items()
        },
        "ratios": {
            name: {
                clock: spread(seconds[name][clock], seconds["original"][clock]) for clock in CLOCKS
            }
            for name in steps
            if name != "original"
        },
    }


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spread(times: list[float], originals: list[float]) -> dict[str, float]:
    """Median and quartiles of the ratios, round by round."""
    ratios = [a / b for a, b in zip(times, originals, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {"median": middle, "low": low, "high": high}


# --- all cases ---------------------------------------------------------------------------------


def processor() -> str:
    """The name of the processor, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def environment() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "dd_plugin": dd_plugin.__version__,
        "processor": processor(),
        "cores": os.cpu_count(),
    }


def measure_in_child(arguments: list[str]) -> dict[str, Any]:
    """One case in a fresh process; its output goes to this one's stderr."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "case.json"
        command = [sys.executable, "-m", "tests.benchmarks.layers", *arguments]
        subprocess.run([*command, "--case", str(result)], check=True, cwd=ROOT, stdout=sys.stderr)
        case: dict[str, Any] = json.loads(result.read_text())
    return case


def key(case: dict[str, Any]) -> tuple[int, str, int, bool]:
    """What tells cases apart, and their order in the file."""
    model = case["model"]
    place = MODELS.index(model) if model in MODELS else len(MODELS)
    return place, model, PASSES.index(case["pass"]), case["compiled"]


def merged(path: Path, case: dict[str, Any]) -> dict[str, Any]:
    """The content of the JSON file with one more case, or with this case measured again."""
    report: dict[str, Any] = {"environment": environment(), "cases": []}
    if path.exists():
        before = json.loads(path.read_text())
        if before["environment"] != report["environment"]:
            raise SystemExit(f"{path} holds measurements of another environment; use another file")
        report["cases"] = [old for old in before["cases"] if key(old) != key(case)]
    report["cases"] = sorted([*report["cases"], case], key=key)
    return report


# --- command line ------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.layers", description=__doc__)
    parser.add_argument("--json", type=Path, default=ROOT / "docs/results/layers.json")
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="MODEL")
    parser.add_argument("--passes", nargs="+", default=PASSES, choices=PASSES)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: both")
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default_device, choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--image", type=int, default=224, help="pixels per side")
    parser.add_argument("--threads", type=int, default=1, help="0: as many as torch wants")
    parser.add_argument("--repeats", type=int, default=9, help="rounds at least")
    parser.add_argument("--seconds", type=float, default=30.0, help="rounds until then, up to 400")
    parser.add_argument("--case", type=Path, help=argparse.SUPPRESS)  # a child: its one case
    return parser


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    if args.case is not None:
        args.model, args.pass_ = args.models[0], args.passes[0]
        args.case.write_text(json.dumps(measure(args)))
        return
    common = [f"--{n}={getattr(args, n)}" for n in ("device", "batch", "image", "threads")]
    common += [f"--repeats={args.repeats}", f"--seconds={args.seconds}"]
    paths: tuple[str, ...] = ("--no-compile", "--compile")
    if args.compile is not None:
        paths = (paths[args.compile],)
    for model, pass_, path in product(args.models, args.passes, paths):
        case = measure_in_child([*common, path, "--models", model, "--passes", pass_])
        report = merged(args.json, case)
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n")
        ratios = {name: round(case["ratios"][name]["cpu"]["median"], 3) for name in VARIANTS[1:]}
        print(f"{model} {pass_} {path.lstrip('-')}: {ratios}", flush=True)


if __name__ == "__main__":
    main()
