"""The switch that tells tracked layers to keep their moving average in the autograd graph.

A BatchNorm layer normally updates its running statistics in place, without a graph. A caller that
differentiates through training (`dd_plugin.bilevel`) needs the opposite: new tensors that carry
the graph, and nothing changed in place. The layers in this package ask here which one it is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

# The statistics that the pass has moved so far; None where they are moved without a graph.
_moved: ContextVar[list[Tensor] | None] = ContextVar("dd_plugin_moved_statistics", default=None)
# How many contexts are entered, in all threads. Dynamo of torch 2.11 cannot follow a ContextVar; it
# follows this number, and is not to look further while it is 0.
_entered = 0
_counting = threading.Lock()


def _moved_so_far() -> list[Tensor] | None:
    return _moved.get() if _entered else None


def statistics_are_in_graph() -> bool:
    """Return whether `statistics_in_graph` is active."""
    return _moved_so_far() is not None


def note_moved(statistics: Tensor) -> None:
    """Note what a layer has rebound its running mean or variance to."""
    moved = _moved_so_far()
    if moved is not None:
        moved.append(statistics)


def as_buffer(statistics: Tensor) -> Tensor:
    """Return running statistics as plain training sees them: without the graph of the same pass.

    A layer that is used twice normalizes with what its first use has moved. Plain training moves
    it without gradient, so the gradient of a training step does not go through it.
    """
    moved = _moved_so_far() or ()
    return statistics.detach() if any(statistics is t for t in moved) else statistics


@contextmanager
def statistics_in_graph() -> Iterator[None]:
    """Let "tracked" layers compute their new running statistics differentiably.

    Inside, a train-mode forward of a layer converted with ``statistics="tracked"`` rebinds
    ``running_mean``, ``running_var`` and ``num_batches_tracked`` to new tensors that carry the
    graph back to the batch, to the previous statistics and to ``momentum_shift``; no tensor is
    changed in place. Combined with `torch.func.functional_call` the model is not changed either:
    torch writes rebound tensors back into the mapping that was passed, where they are read::

        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        with statistics_in_graph():
            output = torch.func.functional_call(model, tensors, (images,))
        tensors["bn1.running_mean"]  # after this step, with its graph

    The switch is one per thread. It has no effect on "learned" and "frozen".
    """
    before = _moved.set([])
    _count(1)
    try:
        yield
    finally:
        _moved.reset(before)
        _count(-1)


def _count(change: int) -> None:
    global _entered
    with _counting:
        _entered += change
