"""Clipping of outer gradients by their own moving norm, each kind of parameter by itself.

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
        optimizer: its groups have names, their parameters gradients.
        norms: the moving norms by name of the group; updated.
        limit: how many times the moving norm; 0 for no clipping.
    """
    gradients = [[p.grad for p in group["params"]] for group in optimizer.param_groups]
    # All at once: the host waits for a GPU each time that it reads a value.
    found = torch.stack([get_total_norm(of_group) for of_group in gradients]).tolist()
    for group, of_group, norm in zip(optimizer.param_groups, gradients, found, strict=True):
        if not norm:  # nothing to clip, and no measure for what follows
            continue
        usual = norms.get(group["name"], norm)
        if limit and norm > limit * usual:
            for g in of_group:
                g.mul_(limit * usual / norm)
            norm = limit * usual
        norms[group["name"]] = _DECAY * usual + (1 - _DECAY) * norm
