"""Outer steps per second of the trainer and of a straightforward loop with `higher`.

    python -m tests.benchmarks.higher_loop --json docs/results/higher-cpu.json

Both learn one image per class of 28x28 (noise) and a step size per inner step by Adam, through the
whole unroll of an inner SGD, from a fresh network in every outer step, judged on 256 images: at
the settings of `SETTINGS`. The loop takes network, real batch and synthetic batch from the same
trainer, so what differs is how the outer gradient is computed. "traced" is the trainer's default,
"inductor" compiles (`DistillerConfig.compile`).

With BatchNorm the two differentiate different functions: `higher` moves the running statistics
outside of any graph and judges with them held constant; the trainer differentiates them and learns
their momentum and correction besides. Without BatchNorm the gradients have to agree, which a run in
double precision checks (`error_in_float64`, of the images' and the step sizes' gradient).

The tools of one setting run in processes of their own that are all there at the same time and take
turns, round after round; a ratio is the median over the rounds of a tool's time divided by that of
`higher` in the same round. Memory is the peak over what was in use before the step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dd_plugin.distiller import Distiller, DistillerConfig
from dd_plugin.models import load_model
from dd_plugin.seeds import Purpose, mix
from tests.benchmarks.measuring import Results, random_images
from tests.benchmarks.tools import Memory

TOOLS = ("dd_plugin, traced", "dd_plugin, inductor", "higher")
CONVNET = {"width": 32, "depth": 3}
SETTINGS: dict[str, dict[str, Any]] = {
    f"ConvNet, {name}, T = {steps}": {
        "model_args": {**CONVNET, "norm_layer": norm},
        "inner_steps": steps,
    }
    for name, norm in (("InstanceNorm", "instancenorm2d"), ("BatchNorm", "batchnorm2d"))
    for steps in (12, 20)
}
SETTINGS["LeNet, T = 10"] = {"model": "timm/dd_lenet", "inner_steps": 10}
SIDE = 28


def make(folder: str, case: dict[str, Any]) -> Distiller:
    """The trainer of a case; also what the loop takes its parts from."""
    config = DistillerConfig(
        output_dir=folder,
        dataset="random",
        real_batch_size=case.get("real_batch_size", 256),
        max_grad_norm=0,
        lr_scheduler_type="constant",
        compile="inductor" if "inductor" in case["tool"] else "trace",
        dtype="float64" if case.get("float64") else "float32",
        **case["options"],
    )
    return Distiller(None, config, random_images(SIDE, channels=1))


def gradient_of_trainer(distiller: Distiller) -> tuple[Tensor, Tensor]:
    """The outer gradient of the first network, for the images and the step sizes."""
    leaves = _leaves(distiller)
    found = distiller._outer_step.gradient(distiller.state.global_step, 0, leaves)
    return found.leaves[0], found.leaves[1]


def gradient_of_higher(distiller: Distiller) -> tuple[Tensor, Tensor]:
    """The same, with `higher`."""
    import higher

    config, synthetic = distiller.config, distiller.synthetic
    step = distiller.state.global_step
    channels, *size = distiller.train_data.shape
    options: Any = config.model_args
    model = load_model(
        config.models[0], num_classes=10, in_chans=channels, img_size=tuple(size), **options
    ).to(distiller.dtype)
    with torch.no_grad():
        for name, value in distiller.architectures.members[0].take(step, 0).parameters.items():
            model.get_parameter(name).copy_(value)
    real, real_labels = distiller.real_batch(step, 0)
    seed = mix(config.seed, Purpose.INNER_RUN, step)
    rates = synthetic.step_sizes()
    optimizer = torch.optim.SGD(model.parameters(), lr=config.inner_lr)
    with higher.innerloop_ctx(model, optimizer) as (network, inner):
        for k in range(config.inner_steps):
            images, labels = synthetic.batch(k, seed)
            inner.step(F.cross_entropy(network(images), labels), override={"lr": [rates[k]]})
        network.eval()
        loss = F.cross_entropy(network(real), real_labels)
        images_bar, rates_bar = torch.autograd.grad(loss, _leaves(distiller)[:2])
    return images_bar, rates_bar


def _leaves(distiller: Distiller) -> list[Tensor]:
    return [leaf for group in distiller.synthetic.leaves().values() for leaf in group]


def step_of_higher(distiller: Distiller) -> None:
    """One outer step of the loop."""
    found = gradient_of_higher(distiller)
    for leaf, gradient in zip(_leaves(distiller), found, strict=False):
        leaf.grad = gradient
    distiller.optimizer.step()
    distiller.optimizer.zero_grad()
    distiller.synthetic.constrain_()
    distiller.state.global_step += 1


def runner(distiller: Distiller, tool: str) -> Callable[[], Any]:
    """A function that takes one outer step."""
    if tool == "higher":
        return lambda: step_of_higher(distiller)

    def trainer() -> None:
        compiled = distiller.architectures.problems[0].compiling
        distiller.training_step()
        if distiller.architectures.problems[0].compiling != compiled:
            raise RuntimeError("the compiler failed and the engine went on eagerly")

    return trainer


def serve(case: dict[str, Any], gradient_file: str) -> None:
    """A case in a process of its own, see `answer`."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        distiller = make(folder, case)
        began = time.perf_counter()
        gradient = gradient_of_higher if case["tool"] == "higher" else gradient_of_trainer
        torch.save(torch.cat([g.flatten() for g in gradient(distiller)]), gradient_file)
        run = runner(distiller, case["tool"])
        if not case.get("float64"):
            run()
        warm_up = time.perf_counter() - began
        answer(run, {"warm_up_seconds": warm_up})


def answer(run: Callable[[], Any], about: dict[str, Any]) -> None:
    """Report, in JSON, what there is to say first, and then a run for every line of input."""

    def report(found: dict[str, Any]) -> None:
        print("RESULT " + json.dumps(found), flush=True)

    Memory("cpu")  # gives back what is free, for the others
    report(about)
    for _ in sys.stdin:
        memory = Memory("cpu")
        began = time.perf_counter()
        run()
        seconds = time.perf_counter() - began
        report({"seconds": seconds, "peak_bytes": memory.peak()})
        Memory("cpu")


class Child:
    """A case in a process of its own."""

    module = "tests.benchmarks.higher_loop"

    def __init__(self, case: dict[str, Any], options: argparse.Namespace, folder: Path) -> None:
        self.case, self.error = case, ""
        self.about: dict[str, Any] = {}
        self.rounds: dict[int, dict[str, Any]] = {}
        self.gradient = folder / f"{len(list(folder.iterdir()))}.pt"
        command = [sys.executable, "-m", self.module]
        command += ["--case", json.dumps(case), "--gradient", str(self.gradient)]
        command += ["--device", options.device, "--threads", str(options.threads)]
        command += ["--float64"] if options.float64 else []
        self.messages = (folder / f"{self.gradient.stem}.txt").open("w+")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.messages,
            text=True,
        )
        self.about = self.answer()

    def answer(self) -> dict[str, Any]:
        """The next report; an empty one when the process has died."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("RESULT "):
                found: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
                return found
        self.messages.seek(0)
        lines = self.messages.read().strip().splitlines()
        reason = lines[-1] if lines else "no message"
        self.error = f"exit {self.process.wait()}: {reason[:300]}"
        return {}

    def run(self, number: int) -> None:
        """One round."""
        if self.error:
            return
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.rounds[number] = self.answer()

    def stop(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()
        self.messages.close()


def compare(setting: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one setting."""
    case = {"options": SETTINGS[setting]}
    with tempfile.TemporaryDirectory() as folder:
        errors = _errors(case, options, Path(folder))
        children = {t: Child({**case, "tool": t}, options, Path(folder)) for t in TOOLS}
        order = list(children.values())
        for number in range(options.repeats):
            for child in order:
                child.run(number)
            order = order[1:] + order[:1]
        for child in order:
            child.stop()
    return [row(setting, child, children["higher"], errors) for child in children.values()]


def _errors(case: dict[str, Any], options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """How far the trainer's gradient is from that of `higher`, in double precision."""
    pair = [
        Child({**case, "tool": tool, "float64": True}, options, folder)
        for tool in (TOOLS[0], "higher")
    ]
    for child in pair:
        child.stop()
        if child.error:
            raise RuntimeError(child.error)
    ours, theirs = (torch.load(child.gradient, weights_only=True) for child in pair)
    steps = case["options"]["inner_steps"]
    parts = {"images": slice(None, -steps), "step_sizes": slice(-steps, None)}
    return {
        name: float((ours[part] - theirs[part]).norm() / theirs[part].norm())
        for name, part in parts.items()
    }


def row(setting: str, child: Child, other: Child, errors: dict[str, float]) -> dict[str, Any]:
    """What was measured of one tool."""
    named = {"setting": setting, "tool": child.case["tool"]}
    if child.error:
        return {**named, "error": child.error}
    seconds = [found["seconds"] for found in child.rounds.values()]
    ratios = [found["seconds"] / other.rounds[n]["seconds"] for n, found in child.rounds.items()]
    median = statistics.median(seconds)
    return {
        **named,
        "seconds": median,
        "steps_per_second": 1 / median,
        "ratio_to_higher": statistics.median(ratios),
        "ratios_to_higher": [min(ratios), max(ratios)],
        "peak_bytes": max(found["peak_bytes"] for found in child.rounds.values()),
        "warm_up_seconds": child.about["warm_up_seconds"],
        "rounds": len(seconds),
        **({"error_in_float64": errors} if child.case["tool"] == TOOLS[0] else {}),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="settings that begin with this")
    parser.add_argument("--float64", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cpu", help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--gradient", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    if options.case:
        serve(json.loads(options.case), options.gradient)
        return
    command = "python -m tests.benchmarks.higher_loop --json docs/results/higher-cpu.json"
    results = Results(options.json, command, ("setting", "tool"))
    for setting in SETTINGS:
        have = any(r["setting"] == setting for r in results.rows)
        if not have and setting.startswith(options.only):
            results.add(compare(setting, options))


if __name__ == "__main__":
    main()
