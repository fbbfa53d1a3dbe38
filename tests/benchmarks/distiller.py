"""What an outer step costs, and what doubles it: unroll, images per class, resolution, networks.

    python -m tests.benchmarks.distiller --json docs/results/distiller-cpu.json

Every case is a `Distiller` of its own in one process, on random images of ten classes with a
BatchNorm ConvNet; they take turns, one outer step each, round after round. A ratio is the median
over the rounds of a case's time divided by the base case's in the same round. Memory is the peak of
the resident set over what was in use before the step (CPU).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image

from dd_plugin.distiller import Distiller, DistillerConfig
from tests.benchmarks.tools import Memory

BASE = {"inner_steps": 20, "images_per_class": 1, "image": 32, "networks_per_step": 1}
CASES: dict[str, dict] = {
    "base": {},
    "unroll 40": {"inner_steps": 40},
    "unroll 80": {"inner_steps": 80},
    "2 images per class": {"images_per_class": 2},
    "4 images per class": {"images_per_class": 4},
    "64 x 64": {"image": 64},
    "2 networks": {"networks_per_step": 2},
    "window of 10 of 20": {"window": "random", "window_length": 10},
    "recompute": {"storage": "recompute"},
    "eager": {"compile": "no"},
    "inductor": {"compile": "inductor"},
}


def random_images(size: int, count: int = 600) -> datasets.Dataset:
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)}
    )
    rows = {"image": [Image.fromarray(p) for p in pixels], "label": np.arange(count) % 10}
    return datasets.Dataset.from_dict(rows, features=features)


def make(folder: str, options: dict) -> Distiller:
    settings = {**BASE, **options}
    size = settings.pop("image")
    config = DistillerConfig(
        output_dir=folder,
        dataset="random",
        model_args={"width": 32, "depth": 3, "norm_layer": "batchnorm2d"},
        real_batch_size=128,
        max_steps=1000,
        **settings,
    )
    return Distiller(None, config, random_images(size))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    memory: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        distillers = {name: make(f"{folder}/{name}", options) for name, options in CASES.items()}
        for distiller in distillers.values():
            distiller.training_step()
        for _ in range(args.rounds):
            for name, distiller in distillers.items():
                peak = Memory("cpu")
                began = time.perf_counter()
                distiller.training_step()
                seconds[name].append(time.perf_counter() - began)
                memory[name] = max(memory.get(name, 0), peak.peak())
    rows: list[dict] = []
    for name, own in seconds.items():
        ratios = [a / b for a, b in zip(own, seconds["base"], strict=True)]
        rows.append(
            {
                "case": name,
                "seconds": statistics.median(own),
                "ratio": statistics.median(ratios),
                "peak_bytes": memory[name],
            }
        )
    about = {
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "rounds": args.rounds,
    }
    for row in rows:
        print(json.dumps(row))
    if args.json:
        args.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
