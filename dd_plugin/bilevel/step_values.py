"""The trees of tensors that go into the functions of a step and come out of them.

Beside `problem`, whose functions take and return them. All are tuples with names, which torch takes
apart by itself: they go through function transforms, `vmap`, tracing and the compiler as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from dd_plugin.bilevel.optimizers import State, Tensors

# The seed of the random numbers of a step, or the drawn numbers themselves.
Noise = Sequence[Tensor] | int


class RunState(NamedTuple):
    """The state of an inner run before a step: θ, o, s, and the integer buffers beside s."""

    parameters: Tensors
    optimizer: State
    statistics: Tensors
    counters: Tensors


class StepInputs(NamedTuple):
    """The arguments of a loss: tensors by role (see `functional`), a batch, random numbers."""

    parameters: Tensors
    statistics: Tensors
    counters: Tensors
    constants: Tensors
    fixed: Tensors
    images: Tensor
    labels: Tensor
    noise: Noise


class GradientResult(NamedTuple):
    """g, the new s and counters, and the loss of a step."""

    gradients: Tensors
    statistics: Tensors
    counters: Tensors
    loss: Tensor


class SweepResult(NamedTuple):
    """The adjoints that a step hands to its inputs through its gradient and its statistics."""

    parameters: Tensors
    statistics: Tensors
    constants: Tensors
    images: Tensor
    labels: Tensor | None = None


class PullResult(NamedTuple):
    """The adjoints that a step hands to its inputs through the optimizer."""

    gradients: Tensors
    optimizer: Any
    parameters: Tensors
    step_size: Any
    hyperparameters: dict[str, Any]


class Carry(NamedTuple):
    """The adjoints that the way back carries from step to step.

    Attributes:
        parameters: θ̄.
        optimizer: ō, of the floating-point entries.
        statistics: s̄.
        constants: of what the run holds constant, summed over the steps so far.
        hyperparameters: of the optimizer's, by name, summed likewise.
    """

    parameters: Tensors
    optimizer: Any
    statistics: Tensors
    constants: Tensors
    hyperparameters: dict[str, Any]


class StepAdjoints(NamedTuple):
    """The adjoints of what goes into one step alone: its step size and its batch."""

    step_size: Any
    images: Tensor
    labels: Tensor | None = None


class StepBars(NamedTuple):
    """ḡ and s̄, the adjoints of what a step makes: of its gradient and of its statistics."""

    gradients: Tensors
    statistics: Tensors


class SweptStep(NamedTuple):
    """The sweep of a step, and what went into it.

    Attributes:
        k: the number of the step.
        gradients: g, as the forward run had it.
        inputs: what the step begins with.
        bars: what the sweep begins with.
        swept: the result.
        method: the name of how it was differentiated.
        again: the functions that computed it, of other inputs of this kind.
    """

    k: int
    gradients: Tensors
    inputs: StepInputs
    bars: StepBars
    swept: SweepResult
    method: str
    again: Callable[[StepInputs], tuple[GradientResult, SweepResult]]


def split_state(state: State) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the differentiable part of an optimizer state, and its counters."""
    counts = {k: v for k, v in state.items() if isinstance(v, Tensor) and not v.is_floating_point()}
    return {k: v for k, v in state.items() if k not in counts}, counts


def leaves_of(tree: Any) -> list[Any]:
    """Return the leaves of a tree of dictionaries, tuples and lists, in order.

    As torch's ``pytree.tree_leaves``, which looks up every node among the types that it knows;
    what that costs a small network is in ``docs/benchmarks/what-was-tried.md``.
    """
    leaves: list[Any] = []
    _collect(tree, leaves)
    return leaves


def tree_map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply a function to each leaf of a tree, together with the same leaf of the others.

    Dictionaries are matched by name, whatever the order of their entries.
    """
    if isinstance(tree, dict):
        return {
            name: tree_map(function, part, *(other[name] for other in others))
            for name, part in tree.items()
        }
    if isinstance(tree, (tuple, list)):
        parts = [tree_map(function, *matching) for matching in zip(tree, *others, strict=True)]
        return parts if isinstance(tree, list) else _tuple_like(tree, parts)
    return function(tree, *others)


def tree_map_only(kind: type, function: Callable[[Any], Any], tree: Any) -> Any:
    """Apply a function to each leaf of a type, and leave the others."""
    return tree_map(lambda leaf: function(leaf) if isinstance(leaf, kind) else leaf, tree)


def _tuple_like(tree: Any, parts: list[Any]) -> Any:
    make = getattr(type(tree), "_make", tuple)  # a tuple with names has it
    return make(parts)


def _collect(tree: Any, leaves: list[Any]) -> None:
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, (tuple, list)):
        leaves.append(tree)
        return
    for part in tree:
        if isinstance(part, Tensor):
            leaves.append(part)
        else:
            _collect(part, leaves)


def rebuilt(tree: Any, leaves: Iterator[Any]) -> Any:
    """Return a tree like another one with other leaves, in the order of `leaves_of`."""
    if isinstance(tree, dict):
        return {name: rebuilt(part, leaves) for name, part in tree.items()}
    if isinstance(tree, (tuple, list)):
        parts = [rebuilt(part, leaves) for part in tree]
        return parts if isinstance(tree, list) else _tuple_like(tree, parts)
    return next(leaves)
