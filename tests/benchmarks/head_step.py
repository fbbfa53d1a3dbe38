"""What an outer step for the head of a frozen network costs, beside one pass of that network.

    python -m tests.benchmarks.head_step --json FILE

A pass is one forward and one backward of the network over the same images, to the pixels. Steps and
passes take turns in one process; what is reported are medians, the ratio of each round's step to
its pass, and the peak of the resident memory over that before. Networks have random weights, which
cost the same as others; real features are noise. Networks of convolutions compute with channels
last, but in the rows "plain layout".
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch

from dd_plugin import Distiller, DistillerConfig
from dd_plugin.networks import Features
from tests.benchmarks.tools import Memory

CLASSES = 10
CASES: list[dict[str, Any]] = [
    {"model": model, "size": size, "images": images, "head": head, "head_steps": steps, "how": how}
    for model, size, images, head, steps, how in [
        ("tf_efficientnet_lite0", 112, 20, "ridge", 1, "float32"),
        ("tf_efficientnet_lite0", 112, 20, "unroll", 10, "float32"),
        ("tf_efficientnet_lite0", 112, 20, "unroll", 100, "float32"),
        ("tf_efficientnet_lite0", 112, 100, "ridge", 1, "float32"),
        ("tf_efficientnet_lite0", 112, 200, "ridge", 1, "float32"),
        ("tf_efficientnet_lite0", 224, 20, "ridge", 1, "float32"),
        ("tf_efficientnet_lite0", 112, 20, "ridge", 1, "float32, plain layout"),
        ("tf_efficientnet_lite0", 112, 20, "ridge", 1, "bf16"),
        ("resnet18", 112, 20, "ridge", 1, "float32"),
        ("resnet18", 112, 20, "ridge", 1, "float32, plain layout"),
        ("resnet18", 112, 20, "ridge", 1, "bf16"),
        ("vit_tiny_patch16_224", 224, 20, "ridge", 1, "float32"),
        ("vit_tiny_patch16_224", 224, 20, "ridge", 1, "bf16"),
    ]
]


def pictures(size: int, count: int) -> torch.utils.data.TensorDataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return torch.utils.data.TensorDataset(images, torch.arange(count) % CLASSES)


def measured(case: dict[str, Any], rounds: int, folder: str) -> dict[str, Any]:
    """One case."""
    torch.manual_seed(0)
    config = DistillerConfig(
        output_dir=folder,
        overwrite_output_dir=True,
        trainable="head",
        head=case["head"],
        images_per_class=case["images"] // CLASSES,
        max_steps=1000,
        eval_steps=0,
        save_steps=0,
        real_batch_size=1000,
        mixed_precision="bf16" if case["how"] == "bf16" else "no",
        disable_tqdm=True,
        **({"inner_steps": case["head_steps"]} if case["head"] == "unroll" else {}),
    )
    network = timm.create_model(case["model"], num_classes=CLASSES)
    data = pictures(case["size"], case["images"])
    distiller = Distiller(network, config, data)
    assert distiller.head is not None
    backbone = distiller.head.backbones[0]
    if case["how"].endswith("plain layout"):
        backbone.channels_last = False
        backbone.to(memory_format=torch.contiguous_format)
    features = torch.randn(1, 2000, backbone.num_features)
    distiller.head.train = [Features(features, torch.arange(2000) % CLASSES, CLASSES)]
    images = distiller.synthetic.images().detach()
    bar = torch.randn(len(images), backbone.num_features)

    def one_pass() -> None:
        leaf = images.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=case["how"] == "bf16"):
            found = backbone(leaf)
        torch.autograd.grad(found.float(), leaf, bar)

    def seconds(function: Callable[[], Any]) -> float:
        began = time.perf_counter()
        function()
        return time.perf_counter() - began

    for _ in range(3):
        one_pass()
        distiller.training_step()
    pairs = [(seconds(distiller.training_step), seconds(one_pass)) for _ in range(rounds)]
    memory = Memory("cpu")
    distiller.training_step()
    step_bytes = memory.peak()
    memory = Memory("cpu")
    one_pass()
    return {
        **case,
        "seconds": statistics.median(step for step, _ in pairs),
        "seconds_of_a_pass": statistics.median(alone for _, alone in pairs),
        "ratio": statistics.median(step / alone for step, alone in pairs),
        "peak_bytes": step_bytes,
        "peak_bytes_of_a_pass": memory.peak(),
        "rounds": rounds,
    }


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.head_step")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    about = {
        "command": "python -m tests.benchmarks.head_step",
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "threads": options.threads,
    }
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            rows.append(measured(case, options.rounds, folder))
            print({k: v for k, v in rows[-1].items() if k != "rounds"}, flush=True)
            options.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
