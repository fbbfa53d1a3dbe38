"""Graphs in which nothing is written into, and passes where something still is."""

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from dd_plugin.bilevel import BilevelProblem, unroll
from dd_plugin.bilevel.tracing.compile import make_graph
from dd_plugin.bilevel.tracing.simplify import simplify
from dd_plugin.bilevel.tracing.writes import (
    owners,
    replace_private_writes,
    unsteady,
    writes,
    written_memory,
)
from tests.bilevel.in_place import STEPS


@pytest.mark.parametrize("step", STEPS)
def test_graphs_write_into_nothing(step):
    def function(tensors):
        kept, mean = tensors[0].clone(), tensors[1]
        step(kept, mean)
        return [kept, kept * mean]

    tensors = [torch.linspace(0.5, 1.5, 6), torch.randn(6)]
    expected = function(tensors)
    before = [t.clone() for t in tensors]
    graph = make_graph(function, tensors)
    assert not any(map(writes, graph.graph.nodes))
    simplify(graph)
    torch.testing.assert_close(graph(tensors), expected)
    assert all(map(torch.equal, tensors, before))


@pytest.mark.parametrize("step", STEPS)
def test_graphs_do_not_write_into_their_inputs(step):
    def function(tensors):
        step(*tensors)
        return [tensors[0] * 2]

    tensors = [torch.linspace(0.5, 1.5, 6), torch.randn(6)]
    before = [t.clone() for t in tensors]
    expected = function([t.clone() for t in tensors])
    graph = make_graph(function, tensors)
    torch.testing.assert_close(graph(tensors), expected)
    assert all(map(torch.equal, tensors, before))


@pytest.mark.parametrize("step", STEPS)
def test_passes_respect_writes_where_they_are_left(step):
    def function(kept, mean):
        kept = kept.clone()
        first = kept * mean + (-kept).sum()
        step(kept, mean)
        return [first, kept, kept * mean + (-kept).sum()]

    tensors = [torch.linspace(0.5, 1.5, 6), torch.randn(6)]
    expected = function(*tensors)
    before = [t.clone() for t in tensors]
    graph = make_fx(function, tracing_mode="fake")(*tensors)
    copied = next(node for node in graph.graph.nodes if node.op == "call_function")
    assert written_memory(graph.graph) >= {copied}
    assert copied in unsteady(graph.graph)
    assert owners(copied) == {copied}
    simplify(graph)
    torch.testing.assert_close(graph(*tensors), expected)
    assert all(map(torch.equal, tensors, before))


def test_private_writes_are_replaced_and_others_are_not():
    def function(x, mask):
        first = (x * 2).mul_(x)  # nothing else sees it
        second = x + 1
        third = second * x
        second.div_(third)  # its only reader came before
        fourth = x - 1
        view = fourth.view(-1)
        fourth.add_(x)  # the view sees it
        fifth = x.exp()
        fifth.add_(1)
        kept = (x > 0).logical_and_(mask)  # stays bool
        count = x.clone()
        count.logical_and_(mask)  # stays floating point
        return [first, second, view * 2, fifth * fifth, kept, count]

    tensors = [torch.randn(6), torch.arange(6) % 2 == 0]
    expected = function(*tensors)
    graph = make_fx(function, tracing_mode="fake")(*tensors)
    replace_private_writes(graph)
    left = sorted(str(node.target) for node in graph.graph.nodes if writes(node))
    assert left == ["aten.add_.Tensor", "aten.logical_and_.default"]
    for actual, wanted in zip(graph(*tensors), expected, strict=True):
        assert torch.equal(actual, wanted)
        assert actual.dtype == wanted.dtype


def test_a_write_into_an_empty_tensor_is_no_write_into_another():
    class Padded(nn.Module):
        """Has a parameter and a buffer without values, and writes into the latter."""

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)
            self.unused = nn.Parameter(torch.empty(0))
            self.register_buffer("log", torch.empty(0))

        def forward(self, x):
            with torch.no_grad():
                self.log.add_(1)
            return self.linear(x) + self.unused.sum()

    batch = torch.randn(3, 2), torch.tensor([0, 1, 0])
    found = unroll(BilevelProblem(Padded()), [batch], step_size=0.1)
    assert found.final.parameters["unused"].shape == (0,)
