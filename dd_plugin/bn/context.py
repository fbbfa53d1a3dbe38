"""The switch that tells tracked layers to keep their moving average in the autograd graph.

A BatchNorm layer normally updates its running statistics in place, without a graph. A caller that
differentiates through training (`dd_plugin.bilevel`) needs the opposite: new tensors that carry
the graph, and nothing changed in place. The layers in this package ask here which one it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_in_graph: ContextVar[bool] = ContextVar("dd_plugin_statistics_in_graph", default=False)


def statistics_are_in_graph() -> bool:
    """Whether `statistics_in_graph` is active."""
    return _in_graph.get()


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
    before = _in_graph.set(True)
    try:
        yield
    finally:
        _in_graph.reset(before)
