"""Gradients of a step by torch's own autograd: the leaves of a graph, and what reaches them.

Used by `problem` for plain training and double backward, and by `whole_graph`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from dd_plugin.bilevel.step_values import StepInputs, tree_map


def swept_roles(inputs: StepInputs) -> list[str]:
    """Return the roles that a sweep has adjoints for: labels only if they are probabilities."""
    roles = ["parameters", "statistics", "constants", "images"]
    return [*roles, "labels"] if inputs.labels.is_floating_point() else roles


def as_leaves(inputs: StepInputs, roles: Iterable[str]) -> dict[str, Any]:
    """Return the tensors of some roles as leaves of a new graph."""
    return {
        role: tree_map(lambda t: t.detach().requires_grad_(), getattr(inputs, role))
        for role in roles
    }


def gradients_of(
    value: Tensor, leaves: dict[Any, Tensor], which: str, create_graph: bool = False
) -> dict[Any, Tensor]:
    """Return the gradient of a loss for ``leaves``, 0 for those that it does not reach.

    Raises:
        ValueError: it reaches none of them.
    """
    slopes: Any = [None] * len(leaves)
    if value.requires_grad:
        slopes = torch.autograd.grad(
            value, list(leaves.values()), create_graph=create_graph, allow_unused=True
        )
    if all(slope is None for slope in slopes):
        raise ValueError(
            f"the {which} loss does not depend on any trainable parameter; neither the model nor "
            "the loss may detach it or take something without a derivative (argmax, rounding) of "
            "it, and the layers that are trained must have requires_grad"
        )
    return {
        name: torch.zeros_like(leaf) if slope is None else slope
        for (name, leaf), slope in zip(leaves.items(), slopes, strict=True)
    }
