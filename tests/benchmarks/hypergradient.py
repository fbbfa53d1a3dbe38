"""The engine beside `higher`, `torchopt` and plain autograd, in one run.

    python -m tests.benchmarks.hypergradient --json FILE

Each case runs in a process of its own: a tool takes the gradient of the outer loss (256 images)
for the inner images (100 of 32x32, the same in every step) after K steps of SGD or Adam on a
ConvNet of three blocks (width 64, BatchNorm), and for a timm ResNet-18. Both losses are taken in
train mode, so that every tool differentiates the same function. Reported per case: seconds of one
hypergradient (median after a warm-up), peak memory over the memory before it (resident set on
CPU, allocator on CUDA), seconds of the warm-up (compilation included), and the relative error of
the gradient against plain autograd. "plain" is inner training alone: a model, `torch.optim`, no
outer gradient; compiled, with `torch.compile`.

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
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

TOOLS = ("ours compiled", "ours eager", "higher", "torchopt", "autograd")
PLAIN = ("plain compiled", "plain eager")
STEP_SIZE = 0.01


def cases(quick: bool) -> list[dict]:
    """Every case of a run, in order."""
    steps = (5, 10) if quick else (5, 10, 20, 40)
    found = []
    for optimizer in ("sgd", "adam"):
        for k in steps:
            for tool in (*TOOLS, *PLAIN):
                found.append({"model": "convnet", "optimizer": optimizer, "steps": k, "tool": tool})
    for tool in (*TOOLS[:3], *PLAIN):
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
    """The model, the inner batch and the outer batch of a case."""
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
    compiled = how == ["compiled"]
    if name in ("ours", "autograd"):
        from dd_plugin import bilevel

        problem = bilevel.BilevelProblem(
            model,
            optimizer=bilevel.adam() if adam else bilevel.sgd(),
            outer_training=True,
            compile=compiled,
        )
        method = "autograd" if name == "autograd" else "mixed"

        def ours():
            result = bilevel.hypergradient(
                problem,
                [(x, y)] * k,
                (real_x, real_y),
                step_size=STEP_SIZE,
                method=method,
            )
            if compiled and not problem.compile:
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


def run_case(case: dict, device: str, repeats: int, gradient_file: str) -> dict:
    """Run a case in this process."""
    began = time.perf_counter()
    run = runner(case, device)
    run()
    warm_up = time.perf_counter() - began
    seconds, peak, extras, gradient = [], 0, {}, None
    for _ in range(repeats):
        memory = Memory(device)
        began = time.perf_counter()
        gradient, extras = run()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        peak = max(peak, memory.peak())
    if gradient is not None:
        torch.save(gradient.detach().cpu(), gradient_file)
    model, _, _ = make(case, device)
    bytes_of = lambda tensors: sum(t.numel() * t.element_size() for t in tensors)  # noqa: E731
    weights = bytes_of(model.parameters())
    state = weights * (3 if case["optimizer"] == "adam" else 1) + bytes_of(model.buffers())
    return {
        **case,
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "peak_bytes": peak,
        "warm_up_seconds": warm_up,
        "state_bytes": state,
        **extras,
    }


# The whole run.


def run_apart(case: dict, options: argparse.Namespace, folder: Path) -> dict:
    """Run a case in a process of its own, and compare its gradient with autograd's."""
    key = "-".join(str(v).replace(" ", "_") for v in case.values())
    command = [sys.executable, "-m", "tests.benchmarks.hypergradient", "--case", json.dumps(case)]
    command += ["--gradient", str(folder / f"{key}.pt"), "--device", options.device]
    command += ["--repeats", str(options.repeats), "--threads", str(options.threads)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=options.timeout)
    except subprocess.TimeoutExpired:
        return {**case, "error": f"took longer than {options.timeout} s"}
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        reason = lines[-1] if lines else "no message"
        return {**case, "error": f"exit {done.returncode}: {reason[:300]}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(rows: list[dict], folder: Path) -> None:
    """Add errors against autograd, ratios to plain training, and memory per added step."""
    by_key = {(r["model"], r["optimizer"], r["steps"], r["tool"]): r for r in rows}
    for (model, optimizer, k, tool), row in by_key.items():
        if "error" in row:
            continue
        names = [f"{model}-{optimizer}-{k}-{t.replace(' ', '_')}.pt" for t in (tool, "autograd")]
        if all((folder / name).exists() for name in names):
            found, expected = (torch.load(folder / n, weights_only=True) for n in names)
            row["error_against_autograd"] = float((found - expected).norm() / expected.norm())
        kind = "plain compiled" if tool == "ours compiled" else "plain eager"
        plain = by_key.get((model, optimizer, k, kind), {})
        if not tool.startswith("plain") and "seconds" in plain:
            row["ratio_to_plain"] = row["seconds"] / plain["seconds"]
        half = by_key.get((model, optimizer, k // 2, tool), {})
        if "peak_bytes" in half and k % 2 == 0:
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
    parser.add_argument(
        "--folder",
        type=Path,
        help="keep the gradients here, to compare them with those of later calls",
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
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds per case")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--gradient", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.case:
        row = run_case(json.loads(options.case), options.device, options.repeats, options.gradient)
        print(json.dumps(row))
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
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for case in chosen:
            rows = [r for r in rows if any(r[key] != value for key, value in case.items())]
            rows.append(run_apart(case, options, folder))
            print(json.dumps(rows[-1]), flush=True)
        compare(rows, folder)
    if options.json:
        about = {
            "command": "python -m tests.benchmarks.hypergradient " + " ".join(sys.argv[1:]),
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
            "processor": platform.processor() or platform.machine(),
            "threads": options.threads,
        }
        options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
