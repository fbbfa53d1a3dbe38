"""Convolutions to one pixel as products: what they give, and which are left alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad, jvp
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from dd_plugin.bilevel.tracing.passes import clean


def convolutions(graph):
    return sum("convolution" in str(node.target) for node in graph.graph.nodes)


def sweep_of(stride, padding, bias):
    """A gradient, and the jvp of it along directions of the kernel: all that a sweep has."""

    def loss(w, x, b):
        y = F.conv2d(torch.tanh(x), w, b if bias else None, stride, padding)
        return (y * y.sin()).sum()

    def function(w, v, x, b):
        gradients, swept = jvp(lambda w: grad(loss, argnums=(0, 1, 2))(w, x, b), (w,), (v,))
        return [*gradients, *swept]

    return function


def traced(function, *args):
    graph = make_fx(function, tracing_mode="fake")(*args)
    before = convolutions(graph)
    return clean(graph), before


@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    sides=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 3),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    bias=st.booleans(),
)
def test_gradients_and_sweeps_are_those_of_the_convolution(kernel, sides, stride, padding, bias):
    spans = [s + 2 * p - k for s, p, k in zip(sides, padding, kernel, strict=True)]
    if min(spans) < 0 or any(p >= k for p, k in zip(padding, kernel, strict=True)):
        return
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 3, *kernel), (5, 3, *kernel), (2, 3, *sides), (5,)]
    args = [torch.randn(*s, generator=generator, dtype=torch.float64) for s in shapes]
    function = sweep_of(stride, padding, bias)
    graph, before = traced(function, *args)
    assert before > 3
    window = [min(k - p, s) for k, p, s in zip(kernel, padding, sides, strict=True)]
    is_one_pixel = all(span < stride for span in spans)
    is_replaced = is_one_pixel and (window == [1, 1] or window == list(kernel))
    assert (convolutions(graph) == 0) == is_replaced
    for found, expected in zip(graph(*args), function(*args), strict=True):
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "kernel", "options"),
    [
        ((2, 4, 3, 3), (4, 2, 3, 3), {"groups": 2}),
        ((2, 3, 5, 5), (4, 3, 3, 3), {"dilation": 2}),
        ((2, 3, 4, 4), (4, 3, 3, 3), {}),  # four pixels
        ((2, 3, 2, 2), (4, 3, 3, 3), {"padding": 1, "stride": 2}),  # four places of the kernel
        ((2, 3, 3), (4, 3, 3), {}),  # one dimension
    ],
)
def test_others_stay_convolutions(shape, kernel, options):
    convolve = F.conv1d if len(shape) == 3 else F.conv2d
    args = [torch.randn(*shape), torch.randn(*kernel)]
    graph, before = traced(lambda x, w: [convolve(x, w, **options)], *args)
    assert convolutions(graph) == before == 1


def test_transposed_convolutions_stay():
    args = [torch.randn(2, 3, 1, 1), torch.randn(3, 4, 1, 1)]
    graph, before = traced(lambda x, w: [F.conv_transpose2d(x, w)], *args)
    assert convolutions(graph) == before == 1


def test_on_other_devices_they_stay():
    args = [torch.randn(2, 3, 1, 1, device="meta"), torch.randn(4, 3, 1, 1, device="meta")]
    graph, before = traced(lambda x, w: [F.conv2d(x, w)], *args)
    assert convolutions(graph) == before == 1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_a_kernel_are_added_before_they_are_padded(layout):
    """Kernel and images both move, so the kernel's gradient moves by a sum of two products."""

    def loss(w, x):
        y = F.conv2d(torch.tanh(x), w, None, 1, 1)
        return (y * y.sin()).sum()

    def swept(w, v, x, u):
        return [jvp(grad(loss), (w, x), (v, u))[1]]

    shapes = ((5, 3, 3, 3), (5, 3, 3, 3), (2, 3, 1, 1), (2, 3, 1, 1))
    args = [torch.randn(*s, dtype=torch.float64).contiguous(memory_format=layout) for s in shapes]
    graph, _ = traced(swept, *args)
    called = [str(node.target) for node in graph.graph.nodes]
    assert sum("aten.mm" in target for target in called) > 3
    assert sum("constant_pad" in target for target in called) == 1
    found = graph(*args)[0]
    torch.testing.assert_close(found, swept(*args)[0], rtol=1e-12, atol=1e-12)
    # Strides of a single place do not tell; sums of such kernels in other layouts are slow.
    assert found.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("shape", [(4, 5), (2, 4, 5), (2, 3, 4, 5), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize("value", [(), (0.0,), (1.5,)], ids=["default", "zero", "other"])
def test_paddings_of_any_number_of_dimensions_are_added(shape, value):
    def function(a, b):
        pad = torch.ops.aten.constant_pad_nd.default
        return [pad(a, [1, 2], *value) + pad(b, [1, 2], *value)]

    args = [torch.randn(*shape, dtype=torch.float64) for _ in range(2)]
    graph, _ = traced(function, *args)
    assert torch.equal(graph(*args)[0], function(*args)[0])


def test_what_is_written_into_after_its_padding_is_not_padded_later():
    def function(a, b):
        pad = torch.ops.aten.constant_pad_nd.default
        a = a * 1
        padded = pad(a, [1, 1], 0.0)
        a.mul_(2)
        return [padded + pad(b, [1, 1], 0.0), a]

    args = [torch.randn(2, 3, 4, 5, dtype=torch.float64) for _ in range(2)]
    graph, _ = traced(function, *args)
    for found, expected in zip(graph(*args), function(*args), strict=True):
        assert torch.equal(found, expected)
