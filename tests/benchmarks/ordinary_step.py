"""A step of ordinary training in several layouts and precisions, in turns.

    python -m tests.benchmarks.ordinary_step --json FILE

What `dd_plugin.evaluation.memory_layout` goes by: per network the milliseconds of processor time of
a step of AdamW as torch has it, and the ratios of the others to it: channels last, bfloat16, both,
and a step of the engine (SGD) as it is and traced. Medians over the rounds, one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.nn import functional as F

import dd_plugin.networks.convnet  # noqa: F401 - registers its networks
from dd_plugin import keep_freed_memory
from dd_plugin.bilevel import BilevelProblem, initial_state, unroll
from dd_plugin.bn import convert_bn
from tests.benchmarks.measuring import Results, in_turns

Step = Callable[[], object]


def _convnet(size: int, channels: int = 3, **arguments: Any) -> nn.Module:
    arguments = {"width": 32, "norm_layer": "batchnorm2d", **arguments}
    return timm.create_model(
        "dd_convnet", img_size=size, in_chans=channels, num_classes=10, **arguments
    )


# Name -> (what makes it, shape of an image, images in a step).
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], int]] = {
    "ConvNet, width 32, digits": (lambda: _convnet(8, 1, depth=2), (1, 8, 8), 128),
    "ConvNet, width 32": (lambda: _convnet(32), (3, 32, 32), 128),
    "ConvNet, width 32, InstanceNorm": (
        lambda: _convnet(32, norm_layer="instancenorm2d"),
        (3, 32, 32),
        128,
    ),
    "ConvNet, width 32, GroupNorm": (
        lambda: _convnet(32, norm_layer="groupnorm"),
        (3, 32, 32),
        128,
    ),
    "ConvNet, width 128": (lambda: _convnet(32, width=128), (3, 32, 32), 64),
    "ConvNet, width 64, 64 px": (lambda: _convnet(64, width=64), (3, 64, 64), 120),
    "timm resnet18": (lambda: timm.create_model("resnet18", num_classes=10), (3, 32, 32), 64),
}
# Name -> (channels last, bfloat16).
ADAMW = {
    "as it is": (False, False),
    "channels last": (True, False),
    "bfloat16": (False, True),
    "channels last, bfloat16": (True, True),
}
ENGINE: dict[str, Any] = {"engine": False, "engine, traced": "trace"}
_ENGINE_STEPS = 4


def adamw_step(name: str, *, last: bool, bfloat16: bool) -> Step:
    """A step of ordinary training."""
    make, shape, count = NETWORKS[name]
    layout = torch.channels_last if last else torch.contiguous_format
    torch.manual_seed(0)
    network = make().train().to(memory_format=layout)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    images, labels = torch.randn(count, *shape), torch.arange(count) % 10

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = network(images.contiguous(memory_format=layout))
        optimizer.zero_grad()
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def engine_steps(name: str, how: Any) -> Step:
    """Some steps of the engine on the same images."""
    make, shape, count = NETWORKS[name]
    torch.manual_seed(0)
    network = convert_bn(make().train(), "tracked", missing_ok=True)
    problem = BilevelProblem(network, compile=how, verify=False)
    batch = torch.randn(count, *shape), torch.arange(count) % 10

    def steps() -> None:
        unroll(
            problem,
            [batch] * _ENGINE_STEPS,
            steps=_ENGINE_STEPS,
            step_size=0.01,
            initial=initial_state(problem),
            seed=0,
        )

    return steps


def compare(name: str, rounds: int) -> dict[str, Any]:
    """The row of a network."""
    steps: dict[str, tuple[Step, int]] = {
        way: (adamw_step(name, last=last, bfloat16=bfloat16), 1)
        for way, (last, bfloat16) in ADAMW.items()
    }
    steps |= {way: (engine_steps(name, how), _ENGINE_STEPS) for way, how in ENGINE.items()}
    for step, _ in steps.values():
        step()
    seconds: dict[str, list[float]] = {way: [] for way in steps}
    for way in in_turns(list(steps), rounds):
        step, count = steps[way]
        began = time.process_time()
        step()
        seconds[way].append((time.process_time() - began) / count)
    plain = seconds["as it is"]
    ratios = {
        way: statistics.median(one / other for one, other in zip(taken, plain, strict=True))
        for way, taken in seconds.items()
    }
    return {
        "network": name,
        "images": NETWORKS[name][2],
        "milliseconds": 1000 * statistics.median(plain),
        "ratios": ratios,
        "rounds": rounds,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    keep_freed_memory()
    command = "python -m tests.benchmarks.ordinary_step --json FILE"
    results = Results(args.json, command, ("network",))
    for name in args.networks:
        if {"network": name} not in results:
            results.add([compare(name, args.rounds)])


if __name__ == "__main__":
    main()
