"""The benchmark of kernel gradients: both ways give the same, and the trace's choice is told."""

import pytest
import torch

from dd_plugin.bilevel.tracing import kernel_gradients as passes
from dd_plugin.bilevel.tracing.compile import make_graph
from tests.benchmarks import kernel_gradients


@pytest.mark.parametrize("layer", kernel_gradients.LAYERS)
def test_a_trace_takes_what_the_row_says(layer):
    two, one, is_taken = kernel_gradients.ways_of(layer, 20)
    torch.testing.assert_close(one(), two(), rtol=1e-3, atol=1e-2)
    graph = make_graph(lambda _: [two()], [torch.zeros(1)])
    passes.merge_kernel_gradients(graph)
    convolutions = sum("convolution" in node.name for node in graph.graph.nodes)
    assert convolutions == (1 if is_taken else 2)


def test_a_row_has_both_times(monkeypatch):
    monkeypatch.setattr(kernel_gradients, "_ROUNDS", 3)
    row = kernel_gradients.measure("ConvNet, 32 to 32, 16x16", 2)
    assert min(row["milliseconds"]) > 0
    assert row["is_taken"] is False
