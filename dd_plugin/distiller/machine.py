"""The cores, the free memory and the processor that this process may use.

Used where a run chooses by them: `auto_compile` and `storage_choice`. A container or a batch system
often allows less than the machine has, so its limits are read, too.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

_CGROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc")


def usable_cores(cgroups: Path = _CGROUPS, proc: Path = _PROC) -> int:
    """Return the number of cores that this process may keep busy, at least 1.

    Args:
        cgroups: where the system mounts its control groups.
        proc: where it mounts its processes.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    for folder in _groups(cgroups, proc):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            cores = min(cores, int(quota) // int(period))
    return max(cores, 1)


def free_memory(device: torch.device, cgroups: Path = _CGROUPS, proc: Path = _PROC) -> int | None:
    """Return the bytes that could still be allocated on a device; None if the system does not tell.

    Args:
        device: a GPU, or the processor for the memory of the host.
        cgroups: where the system mounts its control groups.
        proc: where it mounts its processes.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What this process has freed stays with its allocator.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free_here: list[int] = []
    for line in _text(proc / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free_here.append(int(line.split()[1]) << 10)
    for folder in _groups(cgroups, proc):
        limit, used = _text(folder / "memory.max"), _text(folder / "memory.current")
        if limit.isdigit() and used.isdigit():
            free_here.append(max(int(limit) - int(used) + _cached_files(folder), 0))
    return min(free_here, default=None)


def processor(device: torch.device) -> str:
    """Return the kind of processor that code is compiled for."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device has instructions for products in bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _groups(cgroups: Path, proc: Path) -> Iterator[Path]:
    """Yield the folders of this process's control group and of those around it."""
    for line in _text(proc / "self" / "cgroup").splitlines():
        if not line.startswith("0::/"):
            continue  # of the first version, which new systems do not have
        folder = cgroups / line.removeprefix("0::/")
        yield from (at for at in (folder, *folder.parents) if at.is_relative_to(cgroups))


def _cached_files(folder: Path) -> int:
    """Return the bytes of files in memory, which the system drops when memory is asked for."""
    names = ("inactive_file", "active_file")
    lines = [line.split() for line in _text(folder / "memory.stat").splitlines()]
    return sum(int(number) for name, number in lines if name in names)


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
