"""Clipping of outer gradients by their moving norm, each kind of parameter by itself.

Called by `distiller` before each step of the outer optimizer. Images, labels, step sizes and what
is learned about BatchNorm have gradients of different sizes, which change over a run, so no fixed
limit fits.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

import torch
from torch.nn.utils import get_total_norm

# How much of the moving norm each step leaves.
_DECAY = 0.95


def gradient_norms(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the norm of the gradient of each parameter group by its name, 0-d, unread.

    Args:
        optimizer: its groups have names; those without a gradient are left out.
    """
    present = {
        group["name"]: [p.grad for p in group["params"] if p.grad is not None]
        for group in optimizer.param_groups
    }
    return {name: get_total_norm(of_group) for name, of_group in present.items() if of_group}


def clip_by_moving_norm(
    optimizer: torch.optim.Optimizer,
    norms: Mapping[str, float],
    moving_norms: MutableMapping[str, float],
    limit: float,
) -> None:
    """Limit the gradient of each parameter group to a multiple of its moving norm.

    Args:
        optimizer: its groups have names.
        norms: the values of `gradient_norms`.
        moving_norms: the moving norms by name of the group; updated.
        limit: how many times the moving norm; 0 for no clipping.
    """
    groups = {group["name"]: group["params"] for group in optimizer.param_groups}
    for name, norm in norms.items():
        if not norm:  # nothing to clip, and no measure for what follows
            continue
        usual = moving_norms.get(name, norm)
        if limit and norm > limit * usual:
            for p in groups[name]:
                if p.grad is not None:
                    p.grad.mul_(limit * usual / norm)
            norm = limit * usual
        moving_norms[name] = _DECAY * usual + (1 - _DECAY) * norm
