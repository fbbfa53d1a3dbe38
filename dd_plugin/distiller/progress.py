"""How fast a run goes and how it does: the numbers of a line of its log.

Kept by `distiller` between two lines.
"""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from dd_plugin.distiller.distiller import Distiller


class Progress:
    """Losses and times since the last line of the log.

    The losses are in the state of the run, so a checkpoint between two lines keeps them.

    Args:
        distiller: whose run it is; the clock starts now.
    """

    def __init__(self, distiller: Distiller) -> None:
        self._distiller = distiller
        self._begin()

    def _begin(self) -> None:
        state = self._distiller.state
        self._since = time.perf_counter()
        self._steps, self._inner_steps = state.global_step, state.inner_steps

    def add(self, loss: float) -> None:
        """Note the outer loss of a step; one that is not finite does not count."""
        if math.isfinite(loss):
            self._distiller.state.losses.append(loss)

    def line(self) -> dict[str, Any]:
        """The values of a line; the next one begins here."""
        distiller, state = self._distiller, self._distiller.state
        accelerator = distiller.accelerator
        seconds = max(time.perf_counter() - self._since, 1e-9)
        inner_steps = (state.inner_steps - self._inner_steps) * accelerator.num_processes
        inner_per_second = inner_steps / seconds
        outer_per_second = (state.global_step - self._steps) / seconds
        synthetic = distiller.synthetic
        batch = len(synthetic.indices(0, 0)) * synthetic.copies_per_step
        real = distiller.config.real_batch_size * distiller.networks_per_step
        values: dict[str, Any] = {
            # Without a step that counted there is none, and 0 would be a wrong one.
            **({"outer_loss": sum(state.losses) / len(state.losses)} if state.losses else {}),
            "learning_rate": distiller.lr_scheduler.get_last_lr()[0],
            "outer_steps_per_second": outer_per_second,
            "inner_steps_per_second": inner_per_second,
            "images_per_second": inner_per_second * batch + outer_per_second * real,
            "peak_memory_mb": _peak_memory(accelerator.device) / 1e6,
            "skipped_steps": state.skipped_steps,
            **{f"grad_norm_{name}": norm for name, norm in state.gradient_norms.items()},
        }
        state.losses.clear()
        self._begin()
        return values


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the allocator on a GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    # In kilobytes, but on macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
