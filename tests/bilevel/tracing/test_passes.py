import torch
from torch.func import grad, jvp
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from dd_plugin.bilevel.tracing.passes import clean


def _count(graph_module, name):
    return sum(name in str(node.target) for node in graph_module.graph.nodes)


def _objective(weights, x):
    y = F.avg_pool2d(torch.tanh(F.conv2d(x, weights[0])), 2)
    return F.conv2d(y, weights[1]).square().sum()


def _sweep(weights, directions, x):
    _, (dw, dx) = jvp(lambda w: grad(_objective, argnums=(0, 1))(w, x), (weights,), (directions,))
    return [*dw, dx]


def test_the_sweep_of_two_convolutions_costs_what_it_must():
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    weights = [torch.randn(*s, dtype=torch.float64) for s in ((4, 3, 3, 3), (5, 4, 2, 2))]
    directions = [torch.randn_like(w) for w in weights]
    graph = make_fx(_sweep, tracing_mode="fake")(weights, directions, x)
    before = graph(weights, directions, x)
    clean(graph)
    after = graph(weights, directions, x)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b)
    # Forward: two convolutions, and tangents: one for the first layer, whose input has none, two
    # for the second. Backward: the input's gradient of the second layer; tangents of both inputs'
    # (two each); tangents of weights' gradients: one for the first layer, two for the second.
    assert _count(graph, "aten.convolution.default") == 2 + 1 + 2
    assert _count(graph, "aten.convolution_backward") == 1 + 2 * 2 + 1 + 2


def test_a_zero_that_is_written_into_is_none():
    def function(x):
        total = torch.zeros_like(x)
        total.view(-1).add_(x.view(-1))
        return x * 2 + total

    x = torch.randn(3, 2)
    graph = clean(make_fx(function, tracing_mode="fake")(x))
    assert torch.equal(graph(x), 3 * x)
