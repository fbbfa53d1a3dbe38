"""What the tests run in processes of their own: two workers over gloo, and a fresh interpreter."""

import subprocess
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.repository import ROOT


def run_fresh(code, *arguments):
    """Runs Python code in a new interpreter, with warnings as errors; returns what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def _worker(rank, function, folder, arguments):
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    try:
        torch.save(function(rank, *arguments), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def run_on_two(function, folder, *arguments):
    """Runs ``function(rank, *arguments)`` in two processes over gloo; returns both results."""
    mp.spawn(_worker, (function, str(folder), arguments), nprocs=2)
    return [torch.load(f"{folder}/{rank}.pt") for rank in range(2)]
