"""The outer optimizer, Adam with a learning rate for each kind of leaf, and its schedule.

Used by `distiller` unless a subclass makes its own. `outer_step` clips its gradients by `clipping`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dd_plugin.distiller.config import DistillerConfig


def make_outer_optimizer(
    config: DistillerConfig, leaves: Mapping[str, Sequence[Tensor]]
) -> tuple[torch.optim.Optimizer, Any]:
    """Return the outer optimizer and its schedule.

    Args:
        config: the learning rates and the name of the schedule.
        leaves: what is learned, by kind; see `SyntheticSet.leaves`.
    """
    from transformers import get_scheduler

    rates = {
        "images": config.learning_rate,
        "labels": config.label_lr,
        "step_sizes": config.step_size_lr,
        "constants": config.statistics_lr,
    }
    groups = [
        {"params": tensors, "lr": rates[kind], "name": kind}
        for kind, tensors in leaves.items()
        if tensors
    ]
    optimizer = torch.optim.Adam(groups, betas=(config.adam_beta1, config.adam_beta2))
    scheduler = get_scheduler(
        config.lr_scheduler_type,
        optimizer,
        num_warmup_steps=config.warmup_steps,
        num_training_steps=config.max_steps,
    )
    return optimizer, scheduler
