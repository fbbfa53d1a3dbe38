"""The values that the files of the trainer take: a run, and the state that its steps change.

At the bottom of the trainer, beside `parts`, which has the data, the networks and the synthetic
set. Whatever works for a run takes these values, or fewer; `distiller` alone fills them in.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

import torch
from accelerate import Accelerator
from torch.optim.lr_scheduler import LRScheduler

from dd_plugin.data import RealData
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.distiller.architectures import Architectures
from dd_plugin.distiller.best import BestSet
from dd_plugin.distiller.callbacks import DistillerState
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.distiller.head_course import HeadCourse

# Networks that are trained from scratch, or frozen ones with a head.
Trained: TypeAlias = Architectures | HeadCourse

_T = TypeVar("_T")


@dataclass(frozen=True)
class Run:
    """The settings of a run and the processes that share its work.

    Attributes:
        config: the settings.
        accelerator: the processes and their devices.
        networks_per_step: networks in an outer step, of all processes together.
        folder: the folder that the run writes to, as its settings named it at the start.
        own_losses: a loss is the user's code, which no setting names.
    """

    config: DistillerConfig
    accelerator: Accelerator
    networks_per_step: int
    folder: Path
    own_losses: bool = False

    @classmethod
    def of(cls, config: DistillerConfig, accelerator: Accelerator) -> Run:
        """Return the run of a configuration.

        Raises:
            ValueError: ``networks_per_step`` does not divide among the processes.
        """
        world = accelerator.num_processes
        networks = config.networks_per_step or world
        if networks % world:
            raise ValueError(
                f"`networks_per_step` must be a multiple of the number of processes, {world}, got "
                f"{networks}; leave it out for one per process"
            )
        return cls(config, accelerator, networks, Path(config.output_dir))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of images and weights."""
        dtype: torch.dtype = getattr(torch, self.config.dtype)
        return dtype

    @property
    def processes_here(self) -> int:
        """The processes of the run on this machine, which share its cores and memory."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.accelerator.num_processes))

    def from_main(self, value: _T) -> _T:
        """Return the value of the main process; all processes call this together."""
        if self.accelerator.num_processes == 1:
            return value
        from accelerate.utils import broadcast_object_list

        value_of_main: _T = broadcast_object_list([value])[0]
        return value_of_main

    def share(self, count: int) -> range:
        """Return the networks of this process, out of ``count``."""
        return range(self.accelerator.process_index, count, self.accelerator.num_processes)


@dataclass(frozen=True)
class TrainState:
    """The state that outer steps change, and that a checkpoint holds.

    Attributes:
        synthetic: the set, whose tensors the outer optimizer moves.
        networks: the networks; those of a pool are trained a little further in each step.
        train_data: the real images; streamed ones have a position.
        optimizer: the outer optimizer.
        lr_scheduler: the schedule of its learning rates.
        position: the steps done and the log.
        best: the set at its best evaluation.
    """

    synthetic: SyntheticSet
    networks: Trained
    train_data: RealData
    optimizer: torch.optim.Optimizer
    lr_scheduler: LRScheduler
    position: DistillerState
    best: BestSet
