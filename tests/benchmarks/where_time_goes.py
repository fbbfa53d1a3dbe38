"""Where the time of an outer step goes, and what became of it when items were removed.

    python -m tests.benchmarks.where_time_goes --json docs/results/profile-cpu.json

The outer step is that of a `Distiller` with its default code path, on random images (digits: the
real ones), at the scales of `SCALES`; each scale in a process of its own. Three tables:

- ``time``: wall-clock inside of the functions of the engine and the trainer that are named in
  `CUTS`, without those they call that are named too; the median step of several.
- ``operations``: of one step under `torch.profiler`, the shares of kinds of torch operations, and
  of what is outside of them, which is Python.
- ``removed``: steps of the trainer as it is and of the same with some of what was removed put back
  (`PUT_BACK`), in turns, round after round. A ratio is the median over the rounds of the trainer's
  time divided by the other's in the same round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils import _pytree as pytree

import dd_plugin.distiller.outer_step as outer_step
from dd_plugin.bilevel import driver, steps
from dd_plugin.bilevel.batches import Batches
from dd_plugin.bilevel.foreign_models import pooling
from dd_plugin.bilevel.inputs import Leaves
from dd_plugin.bilevel.steps import Steps
from dd_plugin.bilevel.tracing import compile as compiling
from dd_plugin.bilevel.tracing import simplify as graph_simplify
from dd_plugin.bilevel.trajectory import Trajectory
from dd_plugin.bn import arithmetic, rules
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.distiller import Distiller, DistillerConfig
from dd_plugin.distiller.networks import Networks
from tests.benchmarks.measuring import Results, in_child, in_turns, random_images

BATCHNORM = {"width": 32, "depth": 3, "norm_layer": "batchnorm2d"}
SCALES: dict[str, dict[str, Any]] = {
    "digits 8x8, 1 per class, ConvNet of 2 blocks, T = 20": {},
    "28x28x1, 1 per class, ConvNet of 3 blocks, T = 20": {
        "image": (28, 1),
        "model_args": BATCHNORM,
    },
    "32x32x3, 10 per class, ConvNet of 3 blocks, T = 20": {
        "image": (32, 3),
        "model_args": BATCHNORM,
        "images_per_class": 10,
    },
    "32x32x3, 1 per class, ResNet-18, T = 5": {
        "image": (32, 3),
        "model": "timm/resnet18",
        "inner_steps": 5,
        "real_batch_size": 64,
    },
}

# (group, item, owner, name): the functions that are timed. An owner by name is the trainer's own,
# whose schedule has put a function of its own in the place of the class's.
CUTS: list[tuple[str, str, Any, str]] = [
    ("data", "real batch", Distiller, "real_batch"),
    ("data", "network", Networks, "take"),
    ("data", "synthetic batches", Batches, "__call__"),
    ("data", "back into the images", Leaves, "pull"),
    ("inner run", "loss and gradient", Steps, "gradient"),
    ("inner run", "optimizer", Steps, "update"),
    ("outer loss", "loss and gradient", Steps, "outer"),
    ("outer loss", "rest", driver, "judge"),
    ("backward", "sweep", Steps, "sweep"),
    ("backward", "through the optimizer", Steps, "pull"),
    ("backward", "states rebuilt", Trajectory, "rebuild"),
    ("backward", "rest", driver, "backward"),
    ("outer optimizer", "norms", outer_step, "gradient_norms"),
    ("outer optimizer", "clipping", outer_step, "clip_by_moving_norm"),
    ("outer optimizer", "Adam", "optimizer", "step"),
    ("rest", "engine", outer_step, "hypergradient"),
    ("rest", "trainer", Distiller, "training_step"),
]

KINDS = {
    "convolutions": ("convolution", "conv2d"),
    "pooling": ("pool",),
    "moments": ("var_mean", "batch_norm"),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::matmul", "aten::linear"),
}


def make(folder: str, options: dict[str, Any]) -> Distiller:
    """A trainer for a scale."""
    # Written down, so that the data change none of them.
    settings = {"inner_steps": 20, "real_batch_size": 256, "batching": "all", **options}
    image = settings.pop("image", None)
    if image is None:
        return Distiller(None, DistillerConfig(output_dir=folder, **settings))
    config = DistillerConfig(output_dir=folder, dataset="random", **settings)
    return Distiller(None, config, random_images(*image))


# --- time ---------------------------------------------------------------------------------------


class Clocks:
    """Seconds spent in the functions of `CUTS` by themselves, and how often they were called."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)
        self.calls: Counter[tuple[str, str]] = Counter()
        self._inside: list[float] = []
        self._active: list[tuple[str, str]] = []

    def around(self, function: Callable[..., Any], where: tuple[str, str]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*args: Any, **options: Any) -> Any:
            # The optimizer's steps on the way back belong to what rebuilds the states.
            rebuilt = ("backward", "states rebuilt")
            place = rebuilt if rebuilt in self._active else where
            self._inside.append(0.0)
            self._active.append(place)
            began = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                took = time.perf_counter() - began
                self.seconds[place] += took - self._inside.pop()
                self.calls[place] += 1
                self._active.pop()
                if self._inside:
                    self._inside[-1] += took

        return timed

    @contextlib.contextmanager
    def running(self, distiller: Distiller) -> Iterator[None]:
        """Time every cut inside."""
        with contextlib.ExitStack() as stack:
            for group, item, where, name in CUTS:
                owner = getattr(distiller, where) if isinstance(where, str) else where
                timed = self.around(getattr(owner, name), (group, item))
                stack.enter_context(mock.patch.object(owner, name, timed))
            yield


def time_rows(scale: str, distiller: Distiller, repeats: int) -> list[dict[str, Any]]:
    """The table ``time`` of a scale."""
    found = []
    for _ in range(repeats):
        clocks = Clocks()
        with clocks.running(distiller):
            distiller.training_step()
        found.append((sum(clocks.seconds.values()), clocks))
    total, clocks = sorted(found, key=lambda pair: pair[0])[len(found) // 2]
    return [
        {
            "table": "time",
            "scale": scale,
            "group": group,
            "item": item,
            "seconds": seconds,
            "share": seconds / total,
            "calls": clocks.calls[group, item],
        }
        for (group, item), seconds in sorted(clocks.seconds.items(), key=lambda pair: -pair[1])
    ]


# --- operations ---------------------------------------------------------------------------------


def operation_rows(scale: str, distiller: Distiller) -> list[dict[str, Any]]:
    """The table ``operations`` of a scale."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        began = time.perf_counter()
        distiller.training_step()
        wall = time.perf_counter() - began
    seconds: defaultdict[str, float] = defaultdict(float)
    calls: Counter[str] = Counter()
    for event in profile.events():
        if event.cpu_parent is None and event.name.startswith(("aten::", "autograd::", "torch")):
            kind = next(
                (kind for kind, names in KINDS.items() if any(n in event.name for n in names)),
                "other operations",
            )
            seconds[kind] += event.cpu_time_total / 1e6
            calls[kind] += 1
    seconds["outside of operations"] = wall - sum(seconds.values())
    return [
        {
            "table": "operations",
            "scale": scale,
            "kind": kind,
            "share": taken / wall,
            "calls": calls[kind],
        }
        for kind, taken in sorted(seconds.items(), key=lambda pair: -pair[1])
    ]


# --- what was removed -----------------------------------------------------------------------------


def _nothing(graph_module: Any) -> Any:
    return graph_module


def _old_moments(x: Any) -> Any:
    var, mean = torch.var_mean(x, [d for d in range(x.dim()) if d != 1], correction=0)
    return mean, var


def _old_leaves(tree: Any) -> list[Any]:
    pytree.tree_leaves(tree)  # once for the key of the graph and once for its arguments
    return pytree.tree_leaves(tree)


def _old_pack(traced: Any, tensors: Any) -> Any:
    if not hasattr(traced, "old_spec"):
        traced.old_spec = pytree.tree_structure(traced._result)
    found = iter(tensors)
    leaves = [next(found) if is_tensor else None for is_tensor in traced._is_tensor]
    return pytree.tree_unflatten(leaves, traced.old_spec)


def _old_graph(self: Any, graph: Any, pool: Any = None) -> None:
    del pool  # of a GPU, on which this was not measured
    self._graph = graph


def _old_batches(synthetic: SyntheticSet, seed: int) -> Any:
    return lambda step: synthetic.batch(step, seed)


# What is patched to have a removed item back. Graphs are traced in the first step.
PUT_BACK: dict[str, list[tuple[Any, str, Any]]] = {
    "values computed twice": [
        (graph_simplify, name, _nothing) for name in ("drop_copies", "share", "negate_after_sum")
    ],
    "slow kernels": [
        (pooling, "_pays", lambda input: False),
        (arithmetic, "moments", _old_moments),
        (rules, "moments", _old_moments),
    ],
    "torch's trees": [
        (steps, "leaves_of", _old_leaves),
        (compiling.Traced, "pack", _old_pack),
        (compiling.TracedGraph, "__init__", _old_graph),
    ],
    "batches made in every step": [(SyntheticSet, "batches", _old_batches)],
}
PUT_BACK["all of these"] = [patch for patches in PUT_BACK.values() for patch in patches]


@contextlib.contextmanager
def put_back(name: str) -> Iterator[None]:
    """The trainer with a removed item; as it is for ``""``."""
    with contextlib.ExitStack() as stack:
        for owner, attribute, old in PUT_BACK.get(name, []):
            stack.enter_context(mock.patch.object(owner, attribute, old))
        yield


def removed_rows(scale: str, options: dict[str, Any], rounds: int) -> list[dict[str, Any]]:
    """The table ``removed`` of a scale."""
    names = ["", *PUT_BACK]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        distillers = {}
        for name in names:
            distillers[name] = make(f"{folder}/{name or 'now'}", options)
            with put_back(name):
                distillers[name].training_step()
        for name in in_turns(names, rounds):
            with put_back(name):
                began = time.perf_counter()
                distillers[name].training_step()
                seconds[name].append(time.perf_counter() - began)
    rows = []
    for name in names[1:]:
        ratios = sorted(a / b for a, b in zip(seconds[""], seconds[name], strict=True))
        rows.append(
            {
                "table": "removed",
                "scale": scale,
                "item": name,
                "seconds_with": statistics.median(seconds[name]),
                "seconds": statistics.median(seconds[""]),
                "ratio": statistics.median(ratios),
                "ratios": [ratios[0], ratios[-1]],
                "rounds": rounds,
            }
        )
    return rows


# --- command line -------------------------------------------------------------------------------


def measure(case: dict[str, Any]) -> list[dict[str, Any]]:
    """One scale."""
    warnings.simplefilter("ignore")
    scale, options, repeats = case["scale"], case["options"], case["repeats"]
    with tempfile.TemporaryDirectory() as folder:
        distiller = make(folder, options)
        for _ in range(2):
            distiller.training_step()
        rows = time_rows(scale, distiller, repeats)
        rows += operation_rows(scale, distiller)
    return rows + removed_rows(scale, options, repeats)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="scales that begin with this")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.case:
        args.result.write_text(json.dumps(measure(json.loads(args.case))))
        return
    command = "python -m tests.benchmarks.where_time_goes --json docs/results/profile-cpu.json"
    results = Results(args.json, command, ("table", "scale", "group", "item", "kind"))
    for scale, options in SCALES.items():
        have = any(row["scale"] == scale for row in results.rows)
        if have or not scale.startswith(args.only):
            continue
        case = {"scale": scale, "options": options, "repeats": args.repeats}
        results.add(in_child("tests.benchmarks.where_time_goes", case, args.threads))


if __name__ == "__main__":
    main()
