"""The recipes of dd_plugin/recipes on a data set, over seeds, each run in a process of its own.

    python examples/reproduce/recipes.py DATASET CONFIG... --json docs/results/mnist.json

What a recipe says of data and splits is left aside: the splits are `train` and `validation` of
DATASET. A run that was interrupted goes on from its last checkpoint, one that is there is not made
again, and its results go into the JSON file as soon as it ends. Budget: the pages of the benchmarks
have the minutes of every recipe, from five to a hundred on one CPU core.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import yaml
from collect import add_rows, row_of


def settings_of(recipe: Path, dataset: str, seed: int, folder: Path) -> dict[str, Any]:
    """The settings of a run."""
    settings: dict[str, Any] = yaml.safe_load(recipe.read_text())
    for column in ("image_column", "label_column"):
        settings.pop(column, None)  # found by their types
    own = {"dataset": dataset, "train_split": "train", "eval_split": "validation"}
    return settings | own | {"seed": seed, "output_dir": str(folder)}


def run(recipe: Path, args: argparse.Namespace, seed: int) -> Path:
    """Make a run that is not there yet; its folder."""
    folder: Path = args.runs / (recipe.stem + (f"_seed{seed}" if seed else ""))
    if (folder / "recipe.json").exists():
        return folder
    args.runs.mkdir(parents=True, exist_ok=True)
    path = args.runs / f"{folder.name}.yaml"
    path.write_text(yaml.safe_dump(settings_of(recipe, args.dataset, seed, folder)))
    command = [sys.executable, "-m", "dd_plugin", "distill", str(path), "--disable_tqdm", "true"]
    if any(folder.glob("checkpoint-*")):
        command += ["--resume_from_checkpoint", "latest"]
    elif folder.exists():
        command += ["--overwrite_output_dir"]
    threads = {"OMP_NUM_THREADS": str(args.threads)}
    subprocess.run(command, env={**os.environ, **threads}, check=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", help="a folder or an id on the Hub, with a validation split")
    parser.add_argument("recipes", nargs="+", type=Path, metavar="CONFIG", help="YAML files")
    parser.add_argument("--json", type=Path, required=True, help="where the results are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a run")
    args = parser.parse_args()
    with ThreadPoolExecutor(args.jobs) as pool:
        wanted = [(recipe, seed) for seed in args.seeds for recipe in args.recipes]
        runs = [pool.submit(run, recipe, args, seed) for recipe, seed in wanted]
        for future in as_completed(runs):
            add_rows([row_of(future.result())], args.json)


if __name__ == "__main__":
    main()
