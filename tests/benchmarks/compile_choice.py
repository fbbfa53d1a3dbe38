"""Whole runs traced, compiled and with ``compile: auto``: the wall time of a recipe.

    python -m tests.benchmarks.compile_choice --json docs/results/compile-choice.json

Each run is the outer loop of a recipe on random images, in a process of its own on the cores that
the system gives it, one thread each. ``cold`` begins with an empty cache of the compiler, ``warm``
with the cache that the cold run of the same way has left. A run is stopped a few steps after it has
been compiled, or traced for long enough; the rest is computed from the median of its last steps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from dd_plugin.distiller import Distiller, DistillerCallback, DistillerConfig
from tests.benchmarks.measuring import Results, hardware, in_child, random_images

BATCHNORM = {"width": 32, "norm_layer": "batchnorm2d"}
CASES: dict[str, dict[str, Any]] = {
    "as `cifar10_cpu_ipc10`": {
        "size": 32,
        "model_args": BATCHNORM,
        "max_steps": 500,
        "images_per_class": 10,
        "soft_labels": True,
        "label_form": "weights",
        "inner_steps": 50,
        "batching": "groups",
        "groups": 10,
        "inner_optimizer_args": {"momentum": 0.5},
        "augmentation": "flip",
        "real_batch_size": 128,
    },
    "digits": {"max_steps": 300},
}
# Way -> (setting, whether it begins with a cache).
WAYS = {
    "traced": ("trace", False),
    "compiled, cold": ("inductor", False),
    "compiled, warm": ("inductor", True),
    "auto, cold": ("auto", False),
    "auto, warm": ("auto", True),
}
# Steps of the way that the run has come to, after its first ones, which are slow.
_SETTLED = 4


class Stops(DistillerCallback):
    """Notes when each step ended, and ends the run when its speed is known."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.times: list[float] = []
        self.since = 0

    def on_step_end(self, config: Any, state: Any, control: Any, **_: Any) -> None:
        """See `DistillerCallback`."""
        self.times.append(time.perf_counter() - self.began)
        if config.compile == "auto":
            choice = state.choices.get("compile")
            self.since = choice["from_step"] if choice else len(self.times)
        if len(self.times) >= self.since + _SETTLED + 2:
            control.should_training_stop = True


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """The row of a case, in this process."""
    settings = dict(CASES[case["case"]])
    size = settings.pop("size", None)
    with tempfile.TemporaryDirectory() as folder:
        settings |= {"output_dir": folder, "compile": case["compile"], "disable_tqdm": True}
        settings |= {"save_steps": 0, "eval_steps": 0, "baselines": False}
        data = random_images(size) if size else None
        settings |= {"dataset": "random"} if size else {}
        config = DistillerConfig(**settings)
        stops = Stops()
        distiller = Distiller(None, config, data, callbacks=[stops])
        stops.began = time.perf_counter()
        distiller.train()
    times, since = stops.times, stops.since
    last = [after - before for before, after in pairwise(times[since + 1 :])]
    step = statistics.median(last)
    return {
        "measured_steps": len(times),
        "measured_seconds": times[-1],
        "seconds_per_step": step,
        "steps": config.max_steps,
        "seconds": times[-1] + (config.max_steps - len(times)) * step,
        "choice": distiller.state.choices.get("compile"),
        "load": os.getloadavg()[0],
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)  # a child: its one case
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.case is not None:
        from dd_plugin import keep_freed_memory

        keep_freed_memory()
        torch.set_num_threads(args.threads)
        args.result.write_text(json.dumps(measure(json.loads(args.case))))
        return
    command = "python -m tests.benchmarks.compile_choice --json FILE"
    results = Results(args.json, command, ("case", "way"))
    with tempfile.TemporaryDirectory() as caches:
        for case in CASES:
            for way, (setting, is_warm) in WAYS.items():
                row = {"case": case, "way": way, "compile": setting}
                if row in results:
                    continue
                cache = Path(caches) / f"{case}-{setting}".replace("`", "").replace(" ", "-")
                if is_warm and not cache.exists():
                    print(f"{way} needs the cold run of the same command", file=sys.stderr)
                    continue
                environment = {"TORCHINDUCTOR_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
                environment["THP_MEM_ALLOC_ENABLE"] = "1"
                results.add([{**row, **in_child(__spec__.name, row, 1, environment)}])
    print(hardware())


if __name__ == "__main__":
    main()
