"""Memory and time as the unroll, the images per class and the resolution grow; two processes.

    python -m tests.benchmarks.scale --json docs/results/scale-cpu.json

Three tables:

- ``size``: the second outer step of a `Distiller` with its default code path, on noise, with
  BatchNorm networks, each in a process of its own (`SIZES`). Memory is the peak of the resident set
  over what was in use before that step; ``trajectory_bytes`` is what the engine kept of the run.
  Large pages are on, as the command ``dd-plugin`` has them.
- ``pages``: the largest of these with and without large pages, in turns, round after round.
- ``processes``: inner steps per second, over all processes, of real ``dd-plugin distill`` runs on
  the digits under torchrun, with one and with two processes of one thread in turns, round after
  round. Every process has a network of its own, so two do twice the work of an outer step. The
  first third of a run is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import dd_plugin.distiller.outer_step as outer_step
from dd_plugin.bilevel import hypergradient
from dd_plugin.distiller import Distiller, DistillerConfig
from tests.benchmarks.measuring import Results, in_child, in_turns, random_images
from tests.benchmarks.tools import Memory
from tests.processes import finished

# The options that a row gives, beside these.
SMALL = {"image": [16, 1], "width": 16, "images_per_class": 1, "real_batch_size": 128}
LARGE = {"image": [32, 3], "width": 32, "images_per_class": 1, "real_batch_size": 128}
SIZES: list[dict[str, Any]] = [
    *(
        {**SMALL, "series": "unroll", "inner_steps": steps, "storage": storage}
        for steps in (10, 30, 100, 300, 1000)
        for storage in ("device", "recompute")
    ),
    *(
        {**LARGE, "series": "images per class", "inner_steps": 5, "images_per_class": ipc}
        for ipc in (1, 10, 50)
    ),
    *(
        {
            **LARGE,
            "series": "resolution",
            "inner_steps": 3,
            "image": [size, 3],
            "real_batch_size": 32,
        }
        for size in (32, 64, 128, 224)
    ),
]


# With and without pages of 2 MB for large tensors on a CPU, which torch asks the kernel for.
PAGES = {on: {"THP_MEM_ALLOC_ENABLE": str(int(on))} for on in (True, False)}


def run_size(case: dict[str, Any]) -> dict[str, Any]:
    """The row of a size."""
    warnings.simplefilter("ignore")
    settings = {k: v for k, v in case.items() if k not in ("image", "width", "series")}
    with tempfile.TemporaryDirectory() as folder:
        config = DistillerConfig(
            output_dir=folder,
            dataset="random",
            batching="all",
            model_args={"width": case["width"], "depth": 3, "norm_layer": "batchnorm2d"},
            **settings,
        )
        count = max(300, 10 * config.images_per_class)
        size, channels = case["image"]
        distiller = Distiller(None, config, random_images(size, channels, count))
        distiller.training_step()
        kept: list[int] = []

        def noted(*args: Any, **options: Any) -> Any:
            result = hypergradient(*args, **options)
            kept.append(result.trajectory_bytes)
            return result

        with mock.patch.object(outer_step, "hypergradient", noted):
            memory = Memory("cpu")
            began = time.perf_counter()
            distiller.training_step()
            seconds = time.perf_counter() - began
            peak = memory.peak()
        weights = distiller.architectures.problems[0].model.parameters.values()
        return {
            "table": "size",
            **case,
            "seconds": seconds,
            "seconds_per_inner_step": seconds / config.inner_steps,
            "peak_bytes": peak,
            "trajectory_bytes": kept[0],
            "weight_bytes": sum(w.numel() * w.element_size() for w in weights),
        }


def repeated(case: dict[str, Any], rounds: int, threads: int) -> dict[str, Any]:
    """The row of a size: medians, and the range of the peak, which the C heap makes uneven."""
    rows = [in_child("tests.benchmarks.scale", case, threads, PAGES[True]) for _ in range(rounds)]
    measured = ("seconds", "seconds_per_inner_step", "peak_bytes")
    medians = {name: statistics.median(row[name] for row in rows) for name in measured}
    peaks = sorted(row["peak_bytes"] for row in rows)
    return {**rows[0], **medians, "peaks": [peaks[0], peaks[-1]], "rounds": rounds}


def largest() -> list[dict[str, Any]]:
    """The last size of every series in which tensors grow."""
    last = {case["series"]: case for case in SIZES if case["series"] != "unroll"}
    return list(last.values())


def run_pages(case: dict[str, Any], rounds: int, threads: int) -> dict[str, Any]:
    """The row of a size with large pages over the same without."""
    found: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for on in in_turns((True, False), rounds):
        found[on].append(in_child("tests.benchmarks.scale", case, threads, PAGES[on]))
    pairs = list(zip(found[True], found[False], strict=True))
    ratios = sorted(on["seconds"] / off["seconds"] for on, off in pairs)
    memory = statistics.median(on["peak_bytes"] / off["peak_bytes"] for on, off in pairs)
    return {
        "table": "pages",
        **case,
        "seconds": statistics.median(row["seconds"] for row in found[True]),
        "seconds_without": statistics.median(row["seconds"] for row in found[False]),
        "ratio": statistics.median(ratios),
        "ratios": [ratios[0], ratios[-1]],
        "memory_ratio": memory,
        "rounds": rounds,
    }


def inner_steps_per_second(processes: int, steps: int) -> float:
    """The speed of a run on the digits, over all processes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run"]
        command += ["--nproc_per_node", str(processes)]
        command += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
        command += ["-m", "dd_plugin", "distill", "--output_dir", folder, "--disable_tqdm", "true"]
        command += ["--max_steps", str(3 * steps), "--logging_steps", str(steps)]
        command += ["--eval_steps", "0", "--save_steps", "0", "--baselines", "false"]
        command += ["--final_eval_networks", "1"]
        done = finished(command)
        log = Path(folder) / "log.jsonl"
        if done.returncode or not log.exists():
            raise RuntimeError(f"exit {done.returncode}: {done.stderr[-600:]}")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
    found = [line["inner_steps_per_second"] for line in lines if "inner_steps_per_second" in line]
    return statistics.mean(found[1:])


def run_processes(rounds: int, steps: int) -> list[dict[str, Any]]:
    """The rows of one and of two processes."""
    speeds: dict[int, list[float]] = {1: [], 2: []}
    for processes in in_turns((1, 2), rounds):
        speeds[processes].append(inner_steps_per_second(processes, steps))
    ratios = sorted(two / one for one, two in zip(speeds[1], speeds[2], strict=True))
    return [
        {
            "table": "processes",
            "processes": processes,
            "inner_steps_per_second": statistics.median(found),
            "ratio_to_one": statistics.median(ratios) if processes == 2 else 1.0,
            "ratios_to_one": [ratios[0], ratios[-1]] if processes == 2 else [1.0, 1.0],
            "rounds": rounds,
        }
        for processes, found in speeds.items()
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="how often each case is run")
    parser.add_argument("--steps", type=int, default=40, help="a third of each of these runs")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.case:
        args.result.write_text(json.dumps(run_size(json.loads(args.case))))
        return
    command = "python -m tests.benchmarks.scale --json docs/results/scale-cpu.json"
    keys = ("table", "series", "inner_steps", "images_per_class", "image", "storage", "processes")
    results = Results(args.json, command, keys)
    for case in SIZES:
        if {"table": "size", **case} not in results:
            results.add([repeated(case, args.rounds, args.threads)])
    for case in largest():
        if {"table": "pages", **case} not in results:
            results.add([run_pages(case, args.rounds, args.threads)])
    if {"table": "processes", "processes": 2} not in results:
        results.add(run_processes(args.rounds, args.steps))


if __name__ == "__main__":
    main()
