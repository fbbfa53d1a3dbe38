"""The share of the closing comparison in a whole run, by this checkout and by another.

    git worktree add --detach /tmp/before COMMIT
    python -m tests.benchmarks.closing_comparison --before /tmp/before --json FILE

A run is made of its first step (with what is compiled then), the other outer steps, evaluations
in between, and the comparison at the end: networks trained on the distilled images, on as many
random real ones and on all, and tested. Each part is measured for a few steps or one network, and
multiplied by how many a run has. Both checkouts take turns, each in a process of its own with one
thread and an empty cache of compiled code; medians over the rounds of processor time. Images of
other cases than the digits are noise. Reported per case and checkout: seconds of all parts, the
steps of ordinary training, and the share.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:  # a child has the other checkout's tests
    from tests.benchmarks.measuring import Served

# Name -> settings, image size, real images, test images, classes; and the steps that are timed:
# outer ones, and those of ordinary training.
CASES: dict[str, dict[str, Any]] = {
    "digits": {"settings": {"dataset": "digits", "compile": "trace"}, "outer": 4, "ordinary": 40},
    "CIFAR-10, 10 per class": {"recipe": "cifar10_cpu_ipc10", "images": [32, 50_000, 5_000, 10]},
    "120 images of 64x64, traced": {
        "settings": {
            "model_args": {"width": 64, "norm_layer": "batchnorm2d"},
            "compile": "trace",
        },
        "images": [64, 120, 40, 10],
    },
    "120 images of 64x64, compiled": {
        "settings": {
            "model_args": {"width": 64, "norm_layer": "batchnorm2d"},
            "compile": "inductor",
        },
        "images": [64, 120, 40, 10],
    },
}
# So that the data change none of them.
_WRITTEN_DOWN = {
    "max_steps": 300,
    "inner_steps": 20,
    "real_batch_size": 256,
    "eval_steps": 100,
    "eval_networks": 3,
    "final_eval_networks": 5,
    "baselines": True,
}
_KINDS = ("random", "all")


def _seconds() -> float:
    """Seconds of processor time, of this process and of the compilers that it started."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


# --- one checkout --------------------------------------------------------------------------------


class _Noise:
    """A data set of noise, as `load_real` takes it."""

    def __init__(self, size: int, count: int, classes: int) -> None:
        generator = torch.Generator().manual_seed(count)
        shape = (count, 3, size, size)
        self.pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        self.classes = [f"class {number}" for number in range(classes)]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index >= len(self.pixels):
            raise IndexError(index)
        return self.pixels[index], index % len(self.classes)


def distiller_of(case: dict[str, Any], folder: str) -> Any:
    """The trainer of a case."""
    import yaml

    import dd_plugin
    from dd_plugin.distiller import Distiller, DistillerConfig

    settings = {**_WRITTEN_DOWN, **case.get("settings", {})}
    if "recipe" in case:
        package = Path(dd_plugin.__file__).parent
        file = package / "recipes" / f"{case['recipe']}.yaml"
        settings = {**_WRITTEN_DOWN, **yaml.safe_load(file.read_text())}
    for name in ("dataset", "image_column", "label_column") if "images" in case else ():
        settings.pop(name, None)
    config = DistillerConfig(
        **{**settings, "output_dir": folder, "disable_tqdm": True, "save_steps": 0}
    )
    if "images" not in case:
        return Distiller(None, config)
    size, train, test, classes = case["images"]
    return Distiller(None, config, _Noise(size, train, classes), _Noise(size, test, classes))


class _Ordinary:
    """Ordinary training that stops early, and what it took.

    Args:
        steps: how many are timed, after one.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.trained: list[tuple[int, float]] = []
        self.tested: list[float] = []
        self._train = self._take_over("dd_plugin.evaluation.baselines", "train_on_real", self.train)
        # Version 0.1.0 tests networks from another file.
        version_0_1_0 = find_spec("dd_plugin.evaluation.comparison") is None
        place = "distiller.evaluating" if version_0_1_0 else "evaluation.comparison"
        self._test = self._take_over(f"dd_plugin.{place}", "accuracy_of_module", self.test)

    def _take_over(self, module: str, name: str, function: Any) -> Callable[..., Any]:
        """Put a function in the place of another, and return that one."""
        names = vars(import_module(module))
        before: Callable[..., Any] = names[name]
        names[name] = function
        return before

    def train(self, network: Any, batch: Any, steps: int, **options: Any) -> None:
        self._train(network, batch, 1, **options)
        began = _seconds()
        self._train(network, batch, self.steps, **options)
        self.trained.append((steps, (_seconds() - began) / self.steps))

    def test(self, *args: Any) -> Any:
        began = _seconds()
        accuracy = self._test(*args)
        self.tested.append(_seconds() - began)
        return accuracy


def measured(distiller: Any, ordinary: _Ordinary, outer: int) -> dict[str, float]:
    """Seconds of an outer step, and of each part of the comparison for one network."""
    began = _seconds()
    for _ in range(outer):
        distiller.training_step()
    step = (_seconds() - began) / outer
    began = _seconds()
    distiller.evaluate(networks=1)
    values = {"step": step, "distilled": _seconds() - began}
    # Where baselines are kept, from one round to the next.
    (distiller.output_dir / "baselines.json").unlink(missing_ok=True)
    ordinary.trained.clear()
    ordinary.tested.clear()
    networks, distiller.config.final_eval_networks = distiller.config.final_eval_networks, 1
    distiller.compare()
    distiller.config.final_eval_networks = networks
    # What takes fewer images comes first in some checkouts, and last in others.
    trained = sorted(zip(ordinary.trained, ordinary.tested, strict=True))
    pairs = sorted(trained, key=lambda one: one[0][0] * one[0][1])
    for kind, ((steps, seconds), tested) in zip(_KINDS, pairs, strict=True):
        values |= {f"{kind} steps": steps, f"{kind} step": seconds, f"{kind} test": tested}
    return values


def serve(case: dict[str, Any]) -> None:
    """Measure for every line of input; print what each part took."""
    import dd_plugin

    torch.set_num_threads(1)
    # As the command does, in the checkouts that have it.
    getattr(dd_plugin, "keep_freed_memory", bool)()
    with tempfile.TemporaryDirectory() as folder:
        distiller = distiller_of(case, folder)
        ordinary = _Ordinary(case.get("ordinary", 4))
        began = _seconds()
        distiller.training_step()
        config = distiller.config
        run = {
            "first": _seconds() - began,
            "steps": config.max_steps,
            "evaluations": config.max_steps // config.eval_steps * config.eval_networks,
            "networks": config.final_eval_networks,
        }
        measured(distiller, ordinary, 1)
        print("READY " + json.dumps(run), flush=True)
        for _ in sys.stdin:
            values = measured(distiller, ordinary, case.get("outer", 1))
            print("TOOK " + json.dumps(values), flush=True)


# --- both checkouts ------------------------------------------------------------------------------


def whole_run(run: dict[str, float], rounds: list[dict[str, float]]) -> dict[str, float]:
    """Seconds of the parts of a run, and the share of the comparison."""
    value = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    steps = run["first"] + (run["steps"] - 1) * value["step"]
    evaluations = run["evaluations"] * value["distilled"]
    parts = {"distilled": run["networks"] * value["distilled"]}
    for kind in _KINDS:
        one = value[f"{kind} steps"] * value[f"{kind} step"] + value[f"{kind} test"]
        parts[kind] = run["networks"] * one
    closing = sum(parts.values())
    return {
        "outer step": value["step"],
        "steps": steps,
        "evaluations": evaluations,
        **parts,
        **{f"{kind} steps": value[f"{kind} steps"] for kind in _KINDS},
        "closing": closing,
        "share": closing / (steps + evaluations + closing),
    }


def compare(before: Path, name: str, rounds: int) -> list[dict[str, Any]]:
    """The rows of a case."""
    with tempfile.TemporaryDirectory() as caches:
        return _compare(before, name, rounds, caches)


def _compare(before: Path, name: str, rounds: int, caches: str) -> list[dict[str, Any]]:
    from tests.benchmarks.measuring import ROOT, Served, in_turns

    checkouts: dict[str, Served] = {}
    runs: dict[str, dict[str, float]] = {}
    taken: dict[str, list[dict[str, float]]] = {}
    for checkout, root in (("before", before), ("now", ROOT)):
        # -P: no package from the folder that the command is run in.
        command = [sys.executable, "-P", __file__, "--serve", name]
        cache = f"{caches}/{checkout}"
        environment = {"PYTHONPATH": str(root), "THP_MEM_ALLOC_ENABLE": "1"}
        # Compilers as children of the process, whose time is counted.
        environment |= {"TORCHINDUCTOR_COMPILE_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": cache}
        checkouts[checkout], taken[checkout] = Served(command, environment), []
        runs[checkout] = json.loads(checkouts[checkout].wait_for("READY"))
    for checkout in in_turns(list(checkouts), rounds):
        taken[checkout].append(checkouts[checkout].measure())
    for child in checkouts.values():
        child.end()
    return [
        {"case": name, "checkout": one, **whole_run(runs[one], taken[one]), "rounds": rounds}
        for one in checkouts
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, help="the root of the other checkout")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", help=argparse.SUPPRESS)  # a child: its one case
    args = parser.parse_args(argv)
    if args.serve is not None:
        serve(CASES[args.serve])
        return
    if args.before is None:
        parser.error("--before must name the root of another checkout")
    from tests.benchmarks.measuring import Results

    command = "python -m tests.benchmarks.closing_comparison --before FOLDER --json FILE"
    results = Results(args.json, command, ("case", "checkout"))
    for name in args.cases:
        if {"case": name, "checkout": "now"} not in results:
            results.add(compare(args.before, name, args.rounds))


if __name__ == "__main__":
    main()
