r"""A recipe with single settings changed, each for the same seconds of one core.

    python -m tests.benchmarks.recipe_changes RECIPE FOLDER --json FILE \\
      --changes '{}' '{"mixed_precision": "bf16"}' '{"learning_rate": 0.02}'

RECIPE is one of the package, FOLDER a data set that `load_dataset` reads, with the splits train and
validation. Seconds are those of the processor from the end of the first outer step, before which
steps are compiled; the learning rates fall along half a cosine of them. Reported are outer steps
and the accuracies of fresh networks on the validation images, on which changes may be chosen. A run
that is in the file is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from dd_plugin.recipes import recipe_names, recipe_settings
from tests.benchmarks.by_clock import run_by_clock
from tests.benchmarks.measuring import Results

COMMAND = "python -m tests.benchmarks.recipe_changes"
KEYS = ("recipe", "data", "changes", "seed", "seconds")
_SPLITS = {"train_split": "train", "eval_split": "validation"}


def measure(args: argparse.Namespace, changes: str, seed: int) -> dict[str, Any]:
    """Make one run, and return its row."""
    settings = recipe_settings(args.recipe)
    for column in ("image_column", "label_column"):
        settings.pop(column, None)  # found by their types
    own = {"dataset": args.data, "seed": seed, "final_eval_networks": args.networks}
    began = time.monotonic()
    _, row = run_by_clock({**settings, **_SPLITS, **own, **json.loads(changes)}, args.seconds)
    minutes = round((time.monotonic() - began) / 60, 1)
    return {**_key(args, changes, seed), "minutes": minutes, **row}


def _key(args: argparse.Namespace, changes: str, seed: int) -> dict[str, Any]:
    name = Path(args.data).name
    return dict(zip(KEYS, (args.recipe, name, changes, seed, args.seconds), strict=True))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", choices=recipe_names(), metavar="RECIPE")
    parser.add_argument("data", help="a folder for `load_dataset`, or digits")
    parser.add_argument("--changes", nargs="+", default=["{}"], help="settings as JSON")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--networks", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    # A compiler's processes would take another core's time, which the clock does not see.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    results = Results(args.json, f"{COMMAND} {args.recipe} FOLDER", KEYS)
    for seed in args.seeds:  # in turns, so that a busy hour is that of all
        for changes in args.changes:
            if _key(args, changes, seed) not in results:
                row = measure(args, changes, seed)
                results.add([row])
                mean = sum(row["accuracies"]) / len(row["accuracies"])
                print(f"{changes}, seed {seed}: {100 * mean:.2f} %, {row['outer_steps']} steps")


if __name__ == "__main__":
    main()
