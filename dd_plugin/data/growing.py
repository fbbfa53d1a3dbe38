"""Learned labels, step sizes and transforms of a set that grows, or that is merged with another.

After `synthetic`. The trainer starts a run from a set by these rules, and `dd_plugin.hub.merging`
puts sets together by them. A step size belongs to a step of the training and not to a class, so it
stays. A learned label gets an entry for each new class, as small as that of a label that is fresh.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dd_plugin.choices import LabelForm
from dd_plugin.data.synthetic import OWN_CLASS
from dd_plugin.data.transforms import Transform


def grown_labels(
    targets: Tensor, form: LabelForm, places: Sequence[int], num_classes: int
) -> Tensor:
    """Return learned labels with entries for more classes.

    A new class gets the probability that a fresh label has for another class than its own, and the
    old probabilities are scaled to what is left of 1; their ratios stay. A weight of a new class is
    0, and the old weights stay.

    Args:
        targets: ``(N, old classes)``.
        form: what they are.
        places: of the old classes among all.
        num_classes: how many there are in all.

    Returns:
        ``(N, num_classes)``.
    """
    new = num_classes - len(places)
    share = (1 - OWN_CLASS) / max(num_classes - 1, 1) if form == "probabilities" else 0.0
    grown = targets.new_full((len(targets), num_classes), share)
    grown[:, list(places)] = targets * (1 - new * share) if new else targets
    return grown


def grown_step_sizes(step_sizes: Tensor, shape: Sequence[int]) -> Tensor:
    """Return step sizes in another shape: where steps are added, the last one is repeated.

    Args:
        step_sizes: 0-d, ``(steps,)`` or ``(steps, parameters)``.
        shape: one of these, with other steps.

    Raises:
        ValueError: several step sizes would have to become one.
    """
    if step_sizes.dim() > len(shape):
        kinds = ("shared", "per_step", "per_layer")
        raise ValueError(
            f'`step_sizes` must be "{kinds[step_sizes.dim()]}", as the set of `start_from` has '
            f'learned them, or "constant", got "{kinds[len(shape)]}", for which they would have to '
            "be averaged"
        )
    if step_sizes.dim():
        step_sizes = step_sizes[torch.arange(shape[0]).clamp(max=len(step_sizes) - 1)]
    if step_sizes.dim() == 1 and len(shape) == 2:
        step_sizes = step_sizes[:, None]
    return step_sizes.expand(tuple(shape)).clone()


def same_transform(one: Transform, other: Transform) -> bool:
    """Return whether two transforms give networks the same input, up to rounding."""
    kinds = one.metadata()["kind"], other.metadata()["kind"]
    if kinds[0] != kinds[1]:
        return False
    pairs = [(one.to_tensors(), other.to_tensors())]
    numbers = [
        {name: _tensor(value) for name, value in each.metadata().items() if name != "kind"}
        for each in (one, other)
    ]
    pairs.append((numbers[0], numbers[1]))
    return all(
        first.keys() == second.keys() and all(_close(first[name], second[name]) for name in first)
        for first, second in pairs
    )


def in_words(transform: Transform) -> str:
    """Return a transform as messages name it."""
    values = transform.metadata()
    if "std" not in values:
        return str(values["kind"])
    mean, std = (
        ", ".join(f"{value:.4g}" for value in values[name][:4]) for name in ("mean", "std")
    )
    return f"mean {mean} and std {std}"


def _tensor(value: object) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(
        one.double().cpu(), other.double().cpu(), rtol=1e-5, atol=1e-6
    )
