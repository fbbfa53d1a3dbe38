"""The outer optimizer, Adam with a learning rate for each kind of leaf, and its schedule.

Used by `distiller` unless a subclass makes its own. `outer_step` clips its gradients by `clipping`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from dd_plugin.distiller.config import DistillerConfig


def make_outer_optimizer(
    config: DistillerConfig, leaves: Mapping[str, Sequence[Tensor]]
) -> tuple[torch.optim.Optimizer, Any]:
    """Return the outer optimizer and its schedule.

    Args:
        config: the learning rates and the name of the schedule.
        leaves: what is learned, by kind; see `SyntheticSet.leaves`.
    """
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
    share = partial(
        share_of_rate, config.lr_scheduler_type, warmup=config.warmup_steps, steps=config.max_steps
    )
    return optimizer, LambdaLR(optimizer, share)


def share_of_rate(schedule: str, step: int, *, warmup: int, steps: int) -> float:
    """Return the share of a learning rate that a step has.

    The schedules are those of `transformers.get_scheduler`, to the bit. A run does not wait for the
    import of transformers.

    Args:
        schedule: of `lr_scheduler_type`.
        step: from 0.
        warmup: steps until the whole rate is reached, linearly; none with ``"constant"``.
        steps: of the run.
    """
    if schedule == "constant":
        return 1.0
    if step < warmup:
        return step / max(1, warmup)
    if schedule == "constant_with_warmup":
        return 1.0
    rest = max(1, steps - warmup)
    if schedule == "linear":
        return max(0.0, (steps - step) / rest)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((step - warmup) / rest))))
