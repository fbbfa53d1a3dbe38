"""A plan on paper for ImageNet-1k on 8 and 64 GPUs: operation counts, memory, outer steps an hour.

    python -m tests.benchmarks.imagenet_plan --json docs/results/imagenet-plan.json

No plan is run. Operations are counted on models without data (`torch.utils.flop_counter`); an
inner step takes 3 forward passes' worth, its backward sweep 8 more (docs/concepts/engine.md), the
outer loss 3. Time is operations over the peak of the GPU's data sheet times a utilisation, which is
an assumption and given as a range. Memory is the trajectory, which is counted, plus the larger of
what one sweep and what the outer loss holds: the bytes of all module outputs of a forward pass in
train mode over the batch of either, times factors that are measured first, on CPU: the peak of an
outer step on images of 224x224 over the same count, once with one real image, where the sweep
decides, and once with many (`MEASURED`).
Every GPU has a network of its own; what is reduced between them is one gradient of the images.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dd_plugin.models import load_model
from tests.benchmarks.measuring import Results
from tests.benchmarks.scale import LARGE, repeated

# NVIDIA's data sheet of the H100 SXM: TF32 tensor cores without sparsity; memory.
PEAK = 494.7e12
MEMORY = 80e9
UTILISATION = (0.10, 0.30)
# Bytes per second that a GPU reduces at: NVLink within 8, 400 Gbit/s per GPU beyond.
LINK = {8: 450e9, 64: 50e9}
CLASSES = 1000
OUTER_STEPS = 20_000

_LARGEST = {**LARGE, "series": "plan", "inner_steps": 3, "image": [224, 3]}
# What decides the memory of an outer step -> a step in which it does, and the images of its batch.
MEASURED: dict[str, tuple[dict[str, Any], int]] = {
    "sweep": ({**_LARGEST, "real_batch_size": 1}, 10),
    "outer": ({**_LARGEST, "real_batch_size": 32}, 32),
}

PLANS: dict[str, dict[str, Any]] = {
    "64x64, 1 per class, ConvNet": {
        "model": ("timm/dd_convnet", {"width": 128, "depth": 4, "norm_layer": "batchnorm2d"}),
        "image": 64,
        "images_per_class": 1,
        "batch": 500,
        "run": 60,
        "window": 60,
        "real_batch": 2000,
    },
    "64x64, 10 per class, ConvNet": {
        "model": ("timm/dd_convnet", {"width": 128, "depth": 4, "norm_layer": "batchnorm2d"}),
        "image": 64,
        "images_per_class": 10,
        "batch": 500,
        "run": 300,
        "window": 60,
        "real_batch": 2000,
    },
    "224x224, 1 per class, ResNet-18": {
        "model": ("timm/resnet18", {}),
        "image": 224,
        "images_per_class": 1,
        "batch": 100,
        "run": 100,
        "window": 30,
        "real_batch": 500,
    },
    "224x224, 10 per class, ResNet-18": {
        "model": ("timm/resnet18", {}),
        "image": 224,
        "images_per_class": 10,
        "batch": 100,
        "run": 300,
        "window": 30,
        "real_batch": 500,
    },
}


def counted(
    name: str, options: dict[str, Any], classes: int, channels: int, size: int
) -> dict[str, int]:
    """Operations of a forward pass per image, bytes of its module outputs, bytes of the weights."""
    model = load_model(name, num_classes=classes, in_chans=channels, img_size=size, **options)
    model = model.to("meta").train()
    elements = 0

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal elements
        if isinstance(output, Tensor) and not list(module.children()):
            elements += output.numel()

    for module in model.modules():
        module.register_forward_hook(note)
    images = torch.empty(2, channels, size, size, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(images)
    return {
        "forward_flops": counter.get_total_flops() // 2,
        "activation_bytes": 4 * elements // 2,
        "weight_bytes": 4 * sum(p.numel() for p in model.parameters()),
    }


def memory_factors(rounds: int, threads: int) -> dict[str, float]:
    """Peak memory of a sweep and of an outer loss over the module outputs of their batches."""
    found = {}
    for name, (case, batch) in MEASURED.items():
        row = repeated(case, rounds, threads)
        size, channels = case["image"]
        options = {"width": case["width"], "depth": 3, "norm_layer": "batchnorm2d"}
        outputs = counted("timm/dd_convnet", options, 10, channels, size)["activation_bytes"]
        found[name] = float((row["peak_bytes"] - row["trajectory_bytes"]) / (batch * outputs))
    return found


def plan(name: str, gpus: int, factors: dict[str, float]) -> dict[str, Any]:
    """The row of a plan on so many GPUs."""
    chosen = PLANS[name]
    model, options = chosen["model"]
    found = counted(model, options, CLASSES, 3, chosen["image"])
    run, window, batch = chosen["run"], chosen["window"], chosen["batch"]
    # A random window ends anywhere between its own length and the end of the run.
    steps = (run + window) / 2
    images = 3 * steps * batch + 8 * window * batch + 3 * chosen["real_batch"]
    flops = images * found["forward_flops"]
    pixels = CLASSES * chosen["images_per_class"] * 3 * chosen["image"] ** 2
    reduce = 2 * 4 * pixels / LINK[gpus]
    slow, fast = (flops / (PEAK * u) + reduce for u in UTILISATION)
    # Adam's state of the images beside them and their gradient; g of each step, a state every 8.
    trajectory = window * found["weight_bytes"] * (1 + 1 / 8)
    sweep = factors["sweep"] * batch * found["activation_bytes"]
    outer = factors["outer"] * chosen["real_batch"] * found["activation_bytes"]
    memory = trajectory + max(sweep, outer) + 4 * 4 * pixels
    return {
        "plan": name,
        "gpus": gpus,
        "images_per_class": chosen["images_per_class"],
        "resolution": chosen["image"],
        "network": model,
        "run": run,
        "window": window,
        "batch": batch,
        "real_batch": chosen["real_batch"],
        **found,
        "flops_per_outer_step": flops,
        "trajectory_bytes": trajectory,
        "sweep_bytes": sweep,
        "outer_bytes": outer,
        "images_bytes": 4 * 4 * pixels,
        "memory_bytes": memory,
        "fits": memory < MEMORY,
        "reduce_seconds": reduce,
        "outer_steps_per_hour": [3600 / slow, 3600 / fast],
        "networks_per_hour": [gpus * 3600 / slow, gpus * 3600 / fast],
        "hours": [OUTER_STEPS * fast / 3600, OUTER_STEPS * slow / 3600],
        "outer_steps": OUTER_STEPS,
        "sweep_factor": factors["sweep"],
        "outer_factor": factors["outer"],
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    factors = memory_factors(args.rounds, args.threads)
    command = "python -m tests.benchmarks.imagenet_plan --json docs/results/imagenet-plan.json"
    results = Results(args.json, command, ("plan", "gpus"))
    results.add([plan(name, gpus, factors) for name in PLANS for gpus in LINK])


if __name__ == "__main__":
    main()
