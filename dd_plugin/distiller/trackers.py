"""The trackers of a run, such as TensorBoard, for its log and its pictures.

Filled by `distiller`. A tracker that cannot be written to costs a
warning and not the run.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from accelerate import Accelerator

from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.hub.folder import preview


def make_accelerator(config: DistillerConfig) -> Accelerator:
    """Return the default accelerator of a run, with the trackers in its settings.

    Raises:
        ValueError: it was started as one of several processes, and Accelerate takes it for the only
            one. Each would do a run of its own.
    """
    names = [name for name in config.report_to if name != "none"]
    accelerator = Accelerator(log_with=names or None, project_dir=config.output_dir)
    # A launcher sets both; a cluster may set the first alone.
    started = int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1
    if started > 1 and accelerator.num_processes == 1:
        raise ValueError(
            f"{started} processes were started, but Accelerate takes each of them for the only "
            "one. On a machine without a GPU set ACCELERATE_USE_CPU=true in the environment; or "
            "start one process"
        )
    return accelerator


class Trackers:
    """The trackers of a run.

    Args:
        accelerator: what holds them.
        names: what to call them in a warning.
    """

    def __init__(self, accelerator: Accelerator, names: Sequence[str]) -> None:
        self._accelerator, self._names = accelerator, names
        self._works = True

    def start(self, config: DistillerConfig) -> None:
        """Open the trackers, with the settings of the run."""
        if config.report_to:
            plain = {
                k: v if isinstance(v, (int, float, str, bool)) else str(v)
                for k, v in config.to_dict().items()
            }
            self._accelerator.init_trackers(config.run_name or "dd_plugin", plain)

    def log(self, logs: dict[str, Any], step: int) -> None:
        """Log values of an outer step."""
        self._write(lambda: self._accelerator.log(logs, step=step))

    def log_images(self, synthetic: SyntheticSet, step: int) -> None:
        """Log the synthetic images as one picture, with trackers that take pictures."""
        for tracker in self._accelerator.trackers:
            if hasattr(tracker, "log_images"):
                picture = np.asarray(preview(synthetic).convert("RGB"))[None]
                how = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                self._write(partial(tracker.log_images, {"distilled": picture}, step=step, **how))

    def close(self) -> None:
        """Close the trackers, and end the processes."""
        try:
            self._accelerator.end_training()
        except OSError as error:
            warnings.warn(f"the trackers could not be closed ({error})", stacklevel=3)

    def _write(self, write: Callable[[], None]) -> None:
        """Write to the trackers; a failure is one warning."""
        if not self._works:
            return
        try:
            write()
        except OSError as error:
            self._works = False
            warnings.warn(
                f"the trackers {', '.join(self._names)} cannot be written to ({error}); the run "
                "goes on without them",
                stacklevel=4,
            )
