"""Measurements: what the device can do, seconds and memory of hypergradients, launches and kernels.

The tools and networks are those of `tests.benchmarks.hypergradient`, at the sizes of this file.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.hypergradient import Memory, runner
from tests.gpu.records import Row

_ROUNDS = 5
_SECONDS = 8.0  # after which a case is not repeated again
_SLOWEST = 12  # kernels that are named
_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def _case(case: Mapping[str, Any], size: str, steps: int) -> dict[str, Any]:
    """A case as the benchmark has it."""
    scale = {"width": 8, "images": 10, "outer_images": 16} if size == "toy" else {"width": 128}
    made = {"model": case["model"], "optimizer": "sgd", "steps": steps, **scale}
    return {**made, "tool": case.get("tool", "ours eager")}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _seconds(function: Callable[[], Any], device: str) -> float:
    _wait(device)
    began = time.perf_counter()
    function()
    _wait(device)
    return time.perf_counter() - began


def check_product(case: Mapping[str, Any], device: str, size: str) -> Row:
    """TFLOP/s of one large product of matrices."""
    kind = case["dtype"]
    torch.backends.cuda.matmul.allow_tf32 = kind == "tfloat32"
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    n = 256 if size == "toy" else 8192
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    a @ b
    seconds = statistics.median(_seconds(lambda: a @ b, device) for _ in range(_ROUNDS))
    torch.backends.cuda.matmul.allow_tf32 = False
    return {"size": n, "seconds": seconds, "tflops": 2 * n**3 / seconds / 1e12}


def check_copy(case: Mapping[str, Any], device: str, size: str) -> Row:
    """GB/s of one large copy, counting what is read and what is written."""
    del case
    count = 1 << (22 if size == "toy" else 30)
    source = torch.zeros(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    copies = (_seconds(lambda: target.copy_(source), device) for _ in range(_ROUNDS))
    seconds = statistics.median(copies)
    return {"bytes": count, "seconds": seconds, "gigabytes_per_second": 2 * count / seconds / 1e9}


def check_work(case: Mapping[str, Any], device: str, size: str) -> Row:
    """Floating-point operations of convolutions and products: of an inner step, and of the rest."""
    counted = []
    for steps in (1, 2):
        run = runner(_case(case, size, steps), device)
        with FlopCounterMode(display=False) as counter:
            run()
        counted.append(counter.get_total_flops())
    step = counted[1] - counted[0]
    return {"flops_of_a_step": step, "flops_beside": counted[0] - step}


def check_time(case: Mapping[str, Any], device: str, size: str) -> Row:
    """Seconds and peak memory of one hypergradient; of plain training without one."""
    _settle(device)
    run = runner(_case(case, size, case["steps"]), device)
    warm_up = _seconds(run, device)
    # The second run is the one that is recorded. What a replay computes in was allocated then.
    memory = Memory(device)
    second = _seconds(run, device)
    rounds: list[float] = []
    peak = memory.peak()
    while not rounds or (len(rounds) < _ROUNDS and sum(rounds) < _SECONDS):
        memory = Memory(device)
        rounds.append(_seconds(run, device))
        peak = max(peak, memory.peak())
    return {
        "seconds": statistics.median(rounds),
        "fastest": min(rounds),
        "rounds": len(rounds),
        "peak_bytes": peak,
        "warm_up_seconds": warm_up,
        "second_run_seconds": second,
    }


def check_launches(case: Mapping[str, Any], device: str, size: str) -> Row:
    """Kernels, their time, launches and waits of one inner step, and the slowest kernels.

    On a CPU torch's operations stand for kernels, and nothing is launched.
    """
    _settle(device)
    few, many = (_profiled(_case(case, size, steps), device) for steps in (2, 4))
    row: Row = {
        f"{name}_of_a_step": (many[name] - few[name]) / 2
        for name in ("kernels", "launches", "waits", "kernel_seconds")
    }
    of_a_run = {f"{name}_of_a_run": many[name] for name in ("launches", "waits")}
    return {**row, **of_a_run, "slowest": many["slowest"]}


def _profiled(case: dict[str, Any], device: str) -> dict[str, Any]:
    run = runner(case, device)
    for _ in range(2):  # a CUDA graph is recorded at the second run
        run()
    _wait(device)
    on_gpu = device == "cuda"
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    with profile(activities=kinds) as profiler:
        run()
        _wait(device)
    averages = profiler.key_averages()
    kind = "CUDA" if on_gpu else "CPU"
    kernels = [event for event in averages if event.device_type.name == kind]

    def own_time(event: Any) -> float:
        return event.self_device_time_total if on_gpu else event.self_cpu_time_total

    total = sum(map(own_time, kernels)) or 1.0
    slowest = sorted(kernels, key=own_time, reverse=True)[:_SLOWEST]

    def calls(names: tuple[str, ...]) -> int:
        return sum(event.count for event in averages if event.key.startswith(names))

    return {
        "kernels": sum(event.count for event in kernels),
        "kernel_seconds": total / 1e6,
        "launches": calls(_LAUNCHES),
        "waits": calls(_WAITS),
        "slowest": [
            {"name": event.key[:80], "share": own_time(event) / total, "count": event.count}
            for event in slowest
        ],
    }


def _settle(device: str) -> None:
    """Give back what cases before have left: compiled code, CUDA graphs, memory."""
    torch.compiler.reset()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
