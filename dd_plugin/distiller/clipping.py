"""Clipping of outer gradients by their moving norm, each kind of parameter by itself.

Called by `distiller` before each step of the outer optimizer. Images, labels, step sizes and what
is learned about BatchNorm have gradients of different sizes, which change over a run, so no fixed
limit fits.
"""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from torch.nn.utils import get_total_norm

# How much of the moving norm each step leaves.
_DECAY = 0.95


def clip_by_moving_norm(
    optimizer: torch.optim.Optimizer, norms: MutableMapping[str, float], limit: float
) -> None:
    """Limit the gradient of each parameter group to a multiple of its moving norm.

    Args:
        optimizer: its groups have names; parameters without a gradient are left out.
        norms: the moving norms by name of the group; updated.
        limit: how many times the moving norm; 0 for no clipping.
    """
    present = [
        (group["name"], [p.grad for p in group["params"] if p.grad is not None])
        for group in optimizer.param_groups
    ]
    groups = [(name, of_group) for name, of_group in present if of_group]
    # All at once: the host waits for a GPU each time that it reads a value.
    totals = torch.stack([get_total_norm(of_group) for _, of_group in groups]).tolist()
    for (name, of_group), norm in zip(groups, totals, strict=True):
        if not norm:  # nothing to clip, and no measure for what follows
            continue
        usual = norms.get(name, norm)
        if limit and norm > limit * usual:
            for g in of_group:
                g.mul_(limit * usual / norm)
            norm = limit * usual
        norms[name] = _DECAY * usual + (1 - _DECAY) * norm
