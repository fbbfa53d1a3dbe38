"""Many distillations, each in a process of its own, their results kept in one JSON file.

What the table scripts beside this file share: they say which cases there are and what a
configuration is; `make_rows` makes the runs that the file does not hold yet and writes it after
each, so a long table can be made in pieces and a killed one goes on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from dd_plugin import Distiller, DistillerConfig
from dd_plugin.networks.fresh import ModelInit

Row = dict[str, Any]
# What a run is, as plain values, and the data set and folder for it -> its configuration, and its
# network if that has no name.
Make = Callable[[Row, str, str], tuple[DistillerConfig, ModelInit | None]]


def _run(make: Make, key: Row, dataset: str, threads: int) -> Row:
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        config, network = make(key, dataset, folder)
        distiller = Distiller(network, config)
        began = time.perf_counter()
        distiller.train()
        seconds = time.perf_counter() - began
        scores = distiller.compare()["distilled"]
    return {
        **key,
        "accuracies": list(scores.accuracies),
        "skipped_steps": distiller.state.skipped_steps,
        "seconds": round(seconds, 1),
    }


def make_config(key: Row, dataset: str, folder: str, **own: Any) -> DistillerConfig:
    """The settings that the table scripts have in common, and a script's ``own``."""
    if key["images_per_class"] > 5:
        own |= {"batching": "minibatches", "batch_size": 20}
    if own.get("init") != "fixed":
        own["final_eval_networks"] = key["networks"]
    return DistillerConfig(
        output_dir=folder,
        dataset=dataset,
        eval_split="validation",
        seed=key["seed"],
        images_per_class=key["images_per_class"],
        inner_steps=key["inner_steps"],
        real_batch_size=128,
        max_steps=key["steps"],
        eval_steps=0,
        save_steps=0,
        baselines=False,
        disable_tqdm=True,
        compile=key["compile"],
        **own,
    )


def make_keys(args: argparse.Namespace, setting: Sequence[str]) -> list[Row]:
    """Every case with every seed, under the options named in ``setting``."""
    values = {name: getattr(args, name) for name in setting}
    return [{"case": case, "seed": seed, **values} for seed in args.seeds for case in args.cases]


def make_rows(
    keys: Sequence[Row],
    make: Make,
    args: argparse.Namespace,
) -> None:
    """Make the runs that the file does not hold yet.

    Args:
        keys: what each run is; a run with the same values is not made again.
        make: a function of a module, so that another process can call it.
        args: of `make_parser`: the data set, the JSON file (what it holds stays), runs at a time.
    """
    path: Path = args.json
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    wanted = [key for key in keys if not any(key.items() <= row.items() for row in rows)]
    # Networks on several threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=context, max_tasks_per_child=1) as pool:
        data, threads = args.dataset, args.threads
        for future in as_completed([pool.submit(_run, make, key, data, threads) for key in wanted]):
            rows.append(future.result())
            rows.sort(key=lambda row: [str(row[name]) for name in wanted[0]])
            content = {
                "command": f"python examples/reproduce/{Path(sys.argv[0]).name}",
                "dataset": Path(args.dataset).name,
                "torch": torch.__version__,
                "rows": rows,
            }
            path.write_text(json.dumps(content, indent=1) + "\n")
            print(json.dumps(future.result()), flush=True)


def make_parser(description: str, cases: Sequence[str]) -> argparse.ArgumentParser:
    """The options that these scripts have in common."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("dataset", help="a folder or an id on the Hub, with a validation split")
    parser.add_argument("--json", type=Path, required=True, help="where the rows are kept")
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images_per_class", type=int, default=1)
    parser.add_argument("--steps", type=int, default=400, help="outer steps")
    parser.add_argument("--inner_steps", type=int, default=12)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--networks", type=int, default=5, help="fresh networks of the test")
    parser.add_argument("--compile", default="inductor", choices=["no", "trace", "inductor"])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a run")
    return parser
