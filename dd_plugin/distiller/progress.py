"""Losses and speeds of a run, for the lines of its log.

Kept by `distiller` from one line to the next.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch

from dd_plugin.data import RealData
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.distiller.callbacks import DistillerState
from dd_plugin.distiller.real_images import real_batch_size
from dd_plugin.distiller.run import Run


@dataclass(frozen=True)
class Workload:
    """The images that go through the networks of a run.

    Attributes:
        processes: processes of the run, each of which counts its own inner steps.
        inner_images: synthetic images in an inner step of one network.
        outer_images: real images in an outer step, of all networks together.
    """

    processes: int
    inner_images: int
    outer_images: int

    @classmethod
    def of(cls, run: Run, synthetic: SyntheticSet, train: RealData) -> Workload:
        """Return the workload of a run."""
        return cls(
            run.accelerator.num_processes,
            len(synthetic.indices(0, 0)) * synthetic.copies_per_step,
            real_batch_size(run.config, train) * run.networks_per_step,
        )


class Progress:
    """Losses and times since the last line of the log.

    The losses are in the state of the run, so a checkpoint between two lines keeps them.

    Args:
        state: where the run is; the clock starts now.
        workload: what is counted in a step.
    """

    def __init__(self, state: DistillerState, workload: Workload) -> None:
        self._state, self._workload = state, workload
        self._begin()

    def _begin(self) -> None:
        self._since = time.perf_counter()
        self._steps, self._inner_steps = self._state.global_step, self._state.inner_steps

    def add(self, loss: float) -> None:
        """Note the outer loss of a step; one that is not finite does not count."""
        if math.isfinite(loss):
            self._state.losses.append(loss)

    def line(self, learning_rate: float, device: torch.device) -> dict[str, Any]:
        """Return the values of a line; the next one begins here.

        Args:
            learning_rate: of the images, as it is now.
            device: whose memory is reported.
        """
        state, workload = self._state, self._workload
        seconds = max(time.perf_counter() - self._since, 1e-9)
        inner_steps = (state.inner_steps - self._inner_steps) * workload.processes
        inner_per_second = inner_steps / seconds
        outer_per_second = (state.global_step - self._steps) / seconds
        images_per_second = (
            inner_per_second * workload.inner_images + outer_per_second * workload.outer_images
        )
        values: dict[str, Any] = {
            # Without a step that counted there is none, and 0 would be a wrong one.
            **({"outer_loss": sum(state.losses) / len(state.losses)} if state.losses else {}),
            "learning_rate": learning_rate,
            "outer_steps_per_second": outer_per_second,
            "inner_steps_per_second": inner_per_second,
            "images_per_second": images_per_second,
            "peak_memory_mb": _peak_memory(device) / 1e6,
            "skipped_steps": state.skipped_steps,
            **{f"grad_norm_{name}": norm for name, norm in state.gradient_norms.items()},
        }
        state.losses.clear()
        self._begin()
        return values


def _peak_memory(device: torch.device) -> int:
    """Return the bytes of the allocator on a GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    # In kilobytes, but on macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
