"""The engine beside `higher`, `torchopt` and plain autograd, in one run.

    python -m tests.benchmarks.hypergradient --json FILE

A case is a tool that takes the gradient of the outer loss (256 images) for the inner images (100
of 32x32, the same in every step) after K steps of SGD or Adam on a ConvNet of three blocks (width
64, BatchNorm); and the same on a timm ResNet-18. Both losses are taken in train mode, so that every
tool differentiates the same function. "ours traced" is the engine with ``compile="trace"``, "ours
keeping" the compiled one with 1 GiB for activations. "plain" is inner training alone: a model,
`torch.optim`, no outer gradient; compiled, with `torch.compile`.

The tools of one K run in processes of their own that are all there at the same time and take
turns, round after round, one at work and the others waiting. So a ratio is taken between
neighbours in time and its median over the rounds is not moved by what else a machine does. Reported
per case: seconds of one hypergradient, ratios to plain training and to `higher`, peak memory over
the memory before it (resident set on CPU, allocator on CUDA), seconds of the warm-up (compilation
included), and the relative error of the gradient against plain autograd. With ``--float64`` nothing
is timed; the same cases run once in double precision, and their errors are added to the file.

`higher` and `torchopt` come with the extra ``bench``; where one is missing or fails, its row says
so.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

TOOLS = (
    "ours compiled",
    "ours keeping",
    "ours traced",
    "ours eager",
    "higher",
    "torchopt",
    "autograd",
)
KEEPING = 1 << 30
PLAIN = ("plain compiled", "plain eager")
STEP_SIZE = 0.01
KEYS = ("model", "optimizer", "steps", "tool")


def cases(quick: bool) -> list[dict]:
    """Every case of a run, in order."""
    steps = (5, 10) if quick else (5, 10, 20, 40)
    found = []
    for optimizer in ("sgd", "adam"):
        for k in steps:
            for tool in (*TOOLS, *PLAIN):
                found.append({"model": "convnet", "optimizer": optimizer, "steps": k, "tool": tool})
    for tool in (*TOOLS[:4], *PLAIN):
        found.append({"model": "resnet18", "optimizer": "sgd", "steps": 5, "tool": tool})
    return found


# One case.


def convnet(width: int = 64, classes: int = 10) -> nn.Module:
    """Three blocks of convolution, BatchNorm, ReLU and average pooling, and a linear layer."""
    layers: list[nn.Module] = []
    channels = 3
    for _ in range(3):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width)]
        layers += [nn.ReLU(), nn.AvgPool2d(2)]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * 16, classes))


def make(case: dict, device: str) -> tuple:
    """The model, the inner batch and the outer batch of a case, in torch's default dtype."""
    torch.manual_seed(0)
    if case["model"] == "convnet":
        model, inner, outer = convnet(), 100, 256
    else:
        import timm

        model, inner, outer = timm.create_model("resnet18", num_classes=10), 50, 64
    batch = torch.randn(inner, 3, 32, 32), torch.arange(inner) % 10
    real = torch.randn(outer, 3, 32, 32), torch.arange(outer) % 10
    move = lambda pair: tuple(t.to(device) for t in pair)  # noqa: E731
    return model.to(device).train(), move(batch), move(real)


def runner(case: dict, device: str):
    """A function that takes one hypergradient and returns (gradient for the images, extras)."""
    model, (x, y), (real_x, real_y) = make(case, device)
    tool, k, adam = case["tool"], case["steps"], case["optimizer"] == "adam"
    name, *how = tool.split()
    keeping = how == ["keeping"]
    compiled = keeping or how == ["compiled"]
    if name in ("ours", "autograd"):
        from dd_plugin import bilevel

        problem = bilevel.BilevelProblem(
            model,
            optimizer=bilevel.adam() if adam else bilevel.sgd(),
            outer_training=True,
            compile="trace" if how == ["traced"] else compiled,
        )
        method = "autograd" if name == "autograd" else "mixed"

        def ours():
            result = bilevel.hypergradient(
                problem,
                [(x, y)] * k,
                (real_x, real_y),
                step_size=STEP_SIZE,
                method=method,
                storage=bilevel.Device(activations=KEEPING if keeping else 0),
            )
            if (compiled or how == ["traced"]) and not problem.compiling:
                raise RuntimeError("the compiler failed and the engine went on eagerly")
            gradient = torch.stack([b.images for b in result.batches.values()]).sum(0)
            return gradient, {"trajectory_bytes": result.trajectory_bytes}

        return ours
    make_optimizer = torch.optim.Adam if adam else torch.optim.SGD
    if name == "plain":
        optimizer = make_optimizer(model.parameters(), lr=STEP_SIZE)
        network = torch.compile(model) if compiled else model

        def plain():
            for _ in range(k):
                optimizer.zero_grad()
                F.cross_entropy(network(x), y).backward()
                optimizer.step()
            return None, {}

        return plain
    if name == "higher":
        import higher

        def with_higher():
            images = x.clone().requires_grad_()
            optimizer = make_optimizer(model.parameters(), lr=STEP_SIZE)
            with higher.innerloop_ctx(model, optimizer) as (network, inner):
                for _ in range(k):
                    inner.step(F.cross_entropy(network(images), y))
                loss = F.cross_entropy(network(real_x), real_y)
                return torch.autograd.grad(loss, images)[0], {}

        return with_higher
    import torchopt

    make_meta = torchopt.MetaAdam if adam else torchopt.MetaSGD

    def with_torchopt():
        images = x.clone().requires_grad_()
        before = torchopt.extract_state_dict(model, by="reference", detach_buffers=True)
        inner = make_meta(model, lr=STEP_SIZE)
        for _ in range(k):
            inner.step(F.cross_entropy(model(images), y))
        loss = F.cross_entropy(model(real_x), real_y)
        gradient = torch.autograd.grad(loss, images)[0]
        torchopt.recover_state_dict(model, before)
        return gradient, {}

    return with_torchopt


class Memory:
    """Peak memory of a stretch of code, in bytes, over what was in use before it."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return
        # Give back what the warm-up has freed, so that it counts again.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        self.before = self._status("VmRSS")

    def peak(self) -> int:
        if self.cuda:
            return torch.cuda.max_memory_allocated() - self.before
        return self._status("VmHWM") - self.before

    @staticmethod
    def _status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024


def serve(case: dict, device: str, gradient_file: str) -> None:
    """Warm up, then run the case once for every line on standard input, and report in JSON."""
    began = time.perf_counter()
    run = runner(case, device)
    gradient, _ = run()
    warm_up = time.perf_counter() - began
    if gradient is not None:
        torch.save(gradient.detach().cpu(), gradient_file)
    del gradient
    model, _, _ = make(case, device)
    bytes_of = lambda tensors: sum(t.numel() * t.element_size() for t in tensors)  # noqa: E731
    weights = bytes_of(model.parameters())
    state = weights * (3 if case["optimizer"] == "adam" else 1) + bytes_of(model.buffers())
    answer(lambda: run()[1], device, {"warm_up_seconds": warm_up, "state_bytes": state})


def answer(run: Callable[[], dict], device: str, about: dict) -> None:
    """Report, in JSON, what there is to say first, and then a run for every line of input."""

    def report(found: dict) -> None:
        print("RESULT " + json.dumps(found), flush=True)

    Memory(device)  # gives back what is free, for the others
    report(about)
    for _ in sys.stdin:
        memory = Memory(device)
        began = time.perf_counter()
        extras = run()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        report({"seconds": seconds, "peak_bytes": memory.peak(), **extras})
        Memory(device)


# The whole run.


class Child:
    """A case in a process of its own."""

    module = "tests.benchmarks.hypergradient"

    def __init__(self, case: dict, options: argparse.Namespace, folder: Path) -> None:
        self.case, self.error = case, ""
        self.about: dict = {}
        self.rounds: dict[int, dict] = {}
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

    def answer(self) -> dict:
        """The next report; an empty one when the process has died."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("RESULT "):
                return json.loads(line.removeprefix("RESULT "))
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

    def row(self, tools: dict[str, Child]) -> dict:
        """What was measured, with ratios taken round by round."""
        if self.error:
            return {**self.case, "error": self.error}
        if not self.rounds:
            return {**self.case, **self.error_against(tools.get("autograd"), "error_in_float64")}
        seconds = [found["seconds"] for found in self.rounds.values()]
        last = next(reversed(self.rounds.values()))
        row = {
            **self.case,
            **self.about,
            **last,
            "seconds": statistics.median(seconds),
            "fastest": min(seconds),
            "peak_bytes": max(found["peak_bytes"] for found in self.rounds.values()),
            "rounds": len(seconds),
        }
        tool = self.case["tool"]
        compiled = tool in ("ours compiled", "ours keeping")
        pairs = {"plain": "plain compiled" if compiled else "plain eager", "higher": "higher"}
        for name, other in pairs.items():
            if tool.startswith("plain") or other not in tools or tools[other].error:
                continue
            ratios = [
                self.rounds[n]["seconds"] / tools[other].rounds[n]["seconds"] for n in self.rounds
            ]
            row[f"ratio_to_{name}"] = statistics.median(ratios)
            row[f"ratios_to_{name}"] = [min(ratios), max(ratios)]
        return {**row, **self.error_against(tools.get("autograd"), "error_against_autograd")}

    def error_against(self, oracle: Child | None, name: str) -> dict:
        """The relative error of the gradient, under that name, if both are there."""
        if oracle is None or oracle.error or not self.gradient.exists():
            return {}
        found, expected = (
            torch.load(c.gradient, weights_only=True).double() for c in (self, oracle)
        )
        return {name: float((found - expected).norm() / expected.norm())}


def run_group(chosen: list[dict], options: argparse.Namespace) -> list[dict]:
    """The tools of one model, optimizer and K, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        tools: dict[str, Child] = {}
        for case in chosen:
            tools[case["tool"]] = Child(case, options, Path(folder))
        children = list(tools.values())
        for number in range(0 if options.float64 else options.repeats):
            for child in children:
                child.run(number)
            children = children[1:] + children[:1]
        for child in children:
            child.stop()
        return [child.row(tools) for child in tools.values()]


def compare(rows: list[dict]) -> None:
    """Add the memory of an added step, from rows of the same tool at K and K / 2."""
    by_key = {(r["model"], r["optimizer"], r["steps"], r["tool"]): r for r in rows}
    for (model, optimizer, k, tool), row in by_key.items():
        half = by_key.get((model, optimizer, k // 2, tool), {})
        if "peak_bytes" not in row or "peak_bytes" not in half or k % 2:
            continue
        added = (row["peak_bytes"] - half["peak_bytes"]) / (k - k // 2)
        row["states_per_added_step"] = added / row["state_bytes"]
        if row.get("trajectory_bytes") and half.get("trajectory_bytes"):
            kept = (row["trajectory_bytes"] - half["trajectory_bytes"]) / (k - k // 2)
            row["kept_states_per_added_step"] = kept / row["state_bytes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--json",
        type=Path,
        help="write the results here, beside those of other cases that are there already",
    )
    parser.add_argument("--quick", action="store_true", help="K = 5 and 10 only")
    parser.add_argument(
        "--only",
        default="",
        help="only cases whose description contains all of "
        "these words, comma separated; several sets separated by ;",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--float64", action="store_true", help="errors only, in double precision")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--gradient", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.float64:
        torch.set_default_dtype(torch.float64)
    if options.case:
        serve(json.loads(options.case), options.device, options.gradient)
        return
    wanted = [part.split(",") for part in options.only.split(";")]
    chosen = []
    for case in cases(options.quick):
        text = " ".join(f"{key}={value}" for key, value in case.items())
        if any(all(word in text for word in words) for words in wanted):
            chosen.append(case)
    rows: list[dict] = []
    if options.json and options.json.exists():
        rows = json.loads(options.json.read_text())["rows"]
    groups: dict[tuple, list[dict]] = {}
    for case in chosen:
        groups.setdefault((case["model"], case["optimizer"], case["steps"]), []).append(case)
    for group in groups.values():
        for row in run_group(group, options):
            same = [r for r in rows if all(r[key] == row[key] for key in KEYS)]
            kept = {"error_in_float64"} if not options.float64 else set(same[0] if same else row)
            old = {key: value for r in same for key, value in r.items() if key in kept}
            rows = [r for r in rows if r not in same] + [{**old, **row}]
            print(json.dumps(row), flush=True)
        compare(rows)
        save(options, rows)


def save(options: argparse.Namespace, rows: list[dict]) -> None:
    """Write what there is, in the order of `cases`."""
    if options.json:
        about = {
            "command": "python -m tests.benchmarks.hypergradient " + " ".join(sys.argv[1:]),
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
            "processor": platform.processor() or platform.machine(),
            "threads": options.threads,
        }
        order = [tuple(case[key] for key in KEYS) for case in cases(quick=False)]
        rows = sorted(rows, key=lambda r: order.index(tuple(r[key] for key in KEYS)))
        options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
