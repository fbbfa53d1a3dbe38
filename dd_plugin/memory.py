"""Memory: what is freed stays with the process, for steps that take it again; what a GPU has."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["keep_freed_memory"]

# Parameters of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NO_LIMIT = (1 << 31) - 1
# What the heap grows by at a time.
_PIECE = 64 << 20


def keep_freed_memory() -> bool:
    """Keep freed memory in the process, on Linux with glibc; elsewhere do nothing.

    A training step frees its activations, and the next one takes as much again. In between, glibc
    hands large blocks back to the system, which gives them out anew page by page. Kept blocks are
    at hand at once. Results are the same to the bit. The process holds its largest memory until it
    ends, also while it needs less.

    `dd-plugin` does this for every command. In a script, call it once, before training. If the
    environment sets ``GLIBC_TUNABLES`` or one of glibc's ``MALLOC_..._``, it stays with that.

    Returns:
        Whether freed memory is kept from now on.
    """
    if sys.platform != "linux" or _is_tuned():
        return False
    libc = ctypes.CDLL(None)
    # Other C libraries have no such allocator, or take the call without effect.
    if not hasattr(libc, "gnu_get_libc_version") or not hasattr(libc, "mallopt"):
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NO_LIMIT), (_TOP_PAD, _PIECE))
    return all(libc.mallopt(name, value) == 1 for name, value in settings)


def _is_tuned() -> bool:
    """Whether the user has told glibc how to allocate."""
    glibcs = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
    return any(name in os.environ for name in (*glibcs, "MALLOC_TOP_PAD_", "GLIBC_TUNABLES"))


def memory_of_gpu(device: torch.device) -> int | None:
    """Return the bytes of memory that a GPU has; None for another device."""
    if device.type != "cuda":
        return None
    import torch

    return int(torch.cuda.get_device_properties(device).total_memory)
