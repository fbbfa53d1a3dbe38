"""Places of the window at equal seconds: random, adaptive, and last.

    python -m tests.benchmarks.windows FOLDER --json docs/results/windows.json

FOLDER is a data set that `load_dataset` reads, with the splits train and validation, such as MNIST
or CIFAR-10; "digits" is that of scikit-learn. Every run has the same settings and the same number
of seconds of one core's time, counted from the end of its first outer step, before which steps are
traced. The learning rates fall along half a cosine of these seconds. Reported are outer steps, the
phase in which each step was, and the accuracies of fresh networks on the validation images. A run
that is in the file is not made again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.by_clock import run_by_clock
from tests.benchmarks.measuring import Results

COMMAND = "python -m tests.benchmarks.windows"
KEYS = ("data", "window", "seed", "images_per_class", "inner_steps", "window_length", "seconds")


def measure(args: argparse.Namespace, window: str, seed: int) -> dict[str, Any]:
    """Make one run, and return its row."""
    clock, row = run_by_clock(_settings(args, window, seed), args.seconds)
    return {
        "data": Path(args.data).name,
        "window": window,
        "seed": seed,
        **{key: getattr(args, key) for key in KEYS[3:]},
        **row,
        "phases": clock.phases if window == "adaptive" else None,
        "width": args.width,
        "depth": args.depth,
    }


def _settings(args: argparse.Namespace, window: str, seed: int) -> dict[str, Any]:
    of_args = "window_length inner_steps images_per_class real_batch_size augmentation compile"
    # Not what a trial happens to choose.
    of_layout = {} if args.compile == "no" else {"memory_format": "contiguous"}
    return {
        "dataset": args.data,
        "eval_split": "validation",
        "window": window,
        **{name: getattr(args, name) for name in of_args.split()},
        "batching": "all",
        "model_args": {"width": args.width, "depth": args.depth, "norm_layer": "batchnorm2d"},
        "final_eval_networks": args.networks,
        **of_layout,
        "seed": seed,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", help="a folder for `load_dataset`, or digits")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--windows", nargs="+", default=["random", "adaptive"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--augmentation", default="")
    parser.add_argument("--compile", default="trace")
    for name, default in {
        "images_per_class": 1,
        "inner_steps": 40,
        "window_length": 10,
        "width": 32,
        "depth": 3,
        "real_batch_size": 256,
        "networks": 5,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    results = Results(args.json, f"{COMMAND} FOLDER", KEYS)
    for seed in args.seeds:  # in turns, so that a busy hour is that of all windows
        for window in args.windows:
            wanted = {"data": Path(args.data).name, "window": window, "seed": seed}
            wanted |= {key: getattr(args, key) for key in KEYS[3:]}
            if wanted not in results:
                row = measure(args, window, seed)
                results.add([row])
                mean = sum(row["accuracies"]) / len(row["accuracies"])
                print(f"{window}, seed {seed}: {100 * mean:.1f} %, {row['outer_steps']} steps")


if __name__ == "__main__":
    main()
