"""Hypergradients by this checkout of the package beside those by another, in turns.

    git worktree add --detach /tmp/before COMMIT
    python -m tests.benchmarks.two_trees --before /tmp/before --json FILE

A case is a network and how its steps are run (eagerly, traced or compiled). Each checkout takes one
hypergradient at a time, in a process of its own. The two processes take turns, so that a ratio is
taken between neighbors in time and its median is not moved by what else a machine does. Reported
per case: the medians of the ratios of processor time and of wall time (this checkout over the
other: below 1 this one is faster), the quartiles of the former, the seconds, and the relative
difference of the two gradients for the images. Where that is large, rounding decides which side of
a ReLU a value falls on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:  # a child has the other checkout's tests
    from tests.benchmarks.measuring import Served

HOW: dict[str, Any] = {"eager": False, "traced": "trace", "compiled": True}
# glibc hands freed memory back and asks for it again or not, by chance of its addresses: up to a
# tenth of the time. Here it stays with the process.
KEPT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 36),
    "MALLOC_TOP_PAD_": str(1 << 26),
}
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


# --- one case ------------------------------------------------------------------------------------


def _convnet(width: int, norm_layer: str = "batchnorm2d", size: int = 32) -> nn.Module:
    import timm

    import dd_plugin.convnet  # noqa: F401 - registers its networks

    return timm.create_model(
        "dd_convnet", width=width, norm_layer=norm_layer, img_size=size, num_classes=10
    )


def _resnet(name: str) -> nn.Module:
    import timm

    return timm.create_model(name, num_classes=10)


def _densenet() -> nn.Module:
    from timm.models.densenet import DenseNet

    return DenseNet(growth_rate=12, block_config=(3, 3, 3), num_classes=10, stem_type="")


def _transformers_resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 64, 128],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        num_labels=10,
    )
    return ResNetForImageClassification(config)


# Name -> (what makes it, inner steps, height and width of the images).
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "ConvNet, width 32, depth 3, 8 px": (lambda: _convnet(32, size=8), 20, 8),
    "ConvNet, width 8": (lambda: _convnet(8), 20, 32),
    "ConvNet, width 32": (lambda: _convnet(32), 20, 32),
    "ConvNet, width 32, InstanceNorm": (lambda: _convnet(32, "instancenorm2d"), 20, 32),
    "timm resnet10t": (lambda: _resnet("resnet10t"), 5, 32),
    "timm resnet18": (lambda: _resnet("resnet18"), 5, 32),
    "timm DenseNet, growth 12": (_densenet, 5, 32),
    "transformers ResNet": (_transformers_resnet, 5, 32),
}


class _Logits(nn.Module):
    """A model of transformers as one that returns logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.model(x)
        return getattr(out, "logits", out)


def hypergradient_of(case: dict[str, Any]) -> Callable[[], torch.Tensor]:
    """A function that takes the gradient of a case for its images."""
    from dd_plugin.bilevel import BilevelProblem, hypergradient

    make, steps, size = NETWORKS[case["network"]]
    torch.manual_seed(0)
    model = _Logits(make()).train()
    images, labels = torch.randn(case["images"], 3, size, size), torch.arange(case["images"]) % 10
    real = torch.randn(2 * case["images"], 3, size, size), torch.arange(2 * case["images"]) % 10
    problem = BilevelProblem(model, compile=HOW[case["how"]], verify=False)
    steps = case.get("steps", steps)

    def run() -> torch.Tensor:
        result = hypergradient(problem, [(images, labels)] * steps, real, step_size=0.01)
        assert problem.compiling == HOW[case["how"]]
        return torch.stack([b.images for b in result.batches.values()]).sum(0)

    return run


def serve(case: dict[str, Any], gradient: Path) -> None:
    """Take a hypergradient for every line of input; print the seconds of each."""
    torch.set_num_threads(1)
    run = hypergradient_of(case)
    torch.save(run(), gradient)
    print("READY", flush=True)
    for _ in sys.stdin:
        began = {clock: now() for clock, now in CLOCKS.items()}
        run()
        seconds = {clock: now() - began[clock] for clock, now in CLOCKS.items()}
        print("TOOK " + json.dumps(seconds), flush=True)


# --- both checkouts ------------------------------------------------------------------------------


def _checkout(root: Path, case: dict[str, Any], gradient: Path) -> Served:
    """A case by one checkout, in a process of its own."""
    from tests.benchmarks.measuring import Served

    # -P: no package from the folder that the command is run in.
    command = [sys.executable, "-P", __file__, "--serve", json.dumps(case), str(gradient)]
    return Served(command, {**KEPT, "PYTHONPATH": str(root)})


def compare(before: Path, case: dict[str, Any], rounds: int) -> dict[str, Any]:
    """The row of a case."""
    from tests.benchmarks.measuring import ROOT, in_turns

    seconds: dict[str, list[dict[str, float]]] = {"before": [], "now": []}
    with tempfile.TemporaryDirectory() as folder:
        checkouts = {}
        for name, root in (("before", before), ("now", ROOT)):
            checkouts[name] = _checkout(root, case, Path(folder) / f"{name}.pt")
            checkouts[name].wait_for("READY")
        for name in in_turns(list(checkouts), rounds):
            seconds[name].append(checkouts[name].measure())
        for checkout in checkouts.values():
            checkout.end()
        gradients = {name: torch.load(Path(folder) / f"{name}.pt") for name in checkouts}
    ratios = {
        clock: [
            now[clock] / before[clock]
            for now, before in zip(seconds["now"], seconds["before"], strict=True)
        ]
        for clock in CLOCKS
    }
    low, middle, high = statistics.quantiles(ratios["cpu"], n=4)
    difference = (gradients["now"] - gradients["before"]).norm() / gradients["before"].norm()
    return {
        **case,
        "ratio": middle,
        "quartiles": [low, high],
        "wall_ratio": statistics.median(ratios["wall"]),
        "seconds": {
            name: statistics.median(one["cpu"] for one in runs) for name, runs in seconds.items()
        },
        "difference": float(difference),
        "rounds": rounds,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, help="the root of the other checkout")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--how", nargs="+", default=list(HOW), choices=HOW)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)  # a child: its one case
    args = parser.parse_args(argv)
    if args.serve is not None:
        serve(json.loads(args.serve[0]), Path(args.serve[1]))
        return
    if args.before is None:
        parser.error("--before must name the root of another checkout")
    from tests.benchmarks.measuring import Results

    command = "python -m tests.benchmarks.two_trees --before FOLDER --json FILE"
    results = Results(args.json, command, ("network", "how", "images"))
    for network in args.networks:
        for how in args.how:
            case = {"network": network, "how": how, "images": args.images}
            if case not in results:
                results.add([compare(args.before, case, args.rounds)])


if __name__ == "__main__":
    main()
