"""Sums of two gradients of a kernel: what one convolution gives, and which stay two."""

import operator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad, jvp
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from dd_plugin.bilevel.tracing.passes import clean

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def sweep_of(convolve):
    """The jvp of a gradient along kernel and images."""

    def loss(w, x):
        y = convolve(torch.tanh(x), w)
        return (y * y.sin()).sum()

    def function(w, v, x, u):
        return [jvp(grad(loss, argnums=(0, 1)), (w, x), (v, u))[1][k] for k in (0, 1)]

    return function


def tensors(kernel, images, layout=torch.contiguous_format):
    made = [torch.randn(*s, dtype=torch.float64) for s in (kernel, kernel, images, images)]
    return [t.contiguous(memory_format=layout) if t.dim() == 4 else t for t in made]


def traced(function, *args):
    return clean(make_fx(function, tracing_mode="fake")(*args))


def kernel_gradients(graph):
    """How many gradients of a kernel are computed."""
    return sum(
        node.target is operator.getitem and node.args[1] == 1 and "convolution" in node.args[0].name
        for node in graph.graph.nodes
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("kernel", "images", "options"),
    [
        ((8, 9, 3, 3), (2, 9, 3, 3), {"padding": 1}),
        ((8, 9, 3, 3), (2, 9, 4, 4), {"padding": 1, "stride": 2}),
        ((8, 9, 3, 3), (2, 18, 3, 3), {"padding": 1, "groups": 2}),
        ((16, 9, 2, 2), (2, 9, 4, 4), {"dilation": 2}),
    ],
    ids=["plain", "stride", "groups", "dilation"],
)
def test_the_sum_is_one_convolution(kernel, images, options, layout):
    args = tensors(kernel, images, layout)
    function = sweep_of(lambda x, w: F.conv2d(x, w, None, **options))
    graph = traced(function, *args)
    assert kernel_gradients(graph) == 1
    for found, expected in zip(graph(*args), function(*args), strict=True):
        assert found.shape == expected.shape
        assert found.is_contiguous(memory_format=layout)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_in_one_dimension_and_transposed():
    for convolve, kernel, images in (
        (F.conv1d, (8, 9, 5), (2, 9, 5)),
        (F.conv_transpose2d, (9, 8, 3, 3), (2, 9, 2, 2)),
    ):
        args = tensors(kernel, images)
        function = sweep_of(lambda x, w, convolve=convolve: convolve(x, w))
        graph = traced(function, *args)
        assert kernel_gradients(graph) == 1
        for found, expected in zip(graph(*args), function(*args), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@given(
    side=st.integers(2, 6),
    images=st.integers(1, 6),
    channels=st.integers(1, 6),
    out=st.integers(1, 6),
)
def test_only_where_the_kernel_is_the_larger_part(side, images, channels, out):
    args = tensors((out, channels, 3, 3), (images, channels, side, side))
    function = sweep_of(lambda x, w: F.conv2d(x, w, None, padding=1))
    graph = traced(function, *args)
    is_large = out * channels * 9 >= images * side * side * (channels + out)
    assert kernel_gradients(graph) == (1 if is_large else 2)
    for found, expected in zip(graph(*args), function(*args), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_gradient_that_something_else_needs_stays():
    def function(w, v, x, u):
        def loss(w, x):
            y = F.conv2d(x, w, None, padding=1)
            return (y * y.sin()).sum()

        first, second = grad(loss)(w, x), grad(loss)(v, u)
        return [first + second, first]

    args = tensors((8, 9, 3, 3), (2, 9, 3, 3))
    graph = traced(function, *args)
    assert kernel_gradients(graph) == 2
    for found, expected in zip(graph(*args), function(*args), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("change", ["dilation", "images", "kernel"])
def test_convolutions_that_differ_stay_two(change):
    def function(w, v, x, u):
        def loss(w, x, dilation):
            y = F.conv2d(x, w, None, 1, dilation, dilation)  # of one size, by its padding
            return (y * y.sin()).sum()

        first = grad(loss)(w, x, 1)
        second = grad(loss)(v, u, 2 if change == "dilation" else 1)
        return [first + second]

    w, v, x, u = tensors((8, 9, 3, 3), (2, 9, 3, 3))
    if change == "images":
        u = torch.randn(3, 9, 3, 3, dtype=torch.float64)
    if change == "kernel":
        w, v, x = (t[:, :1] for t in (w, v, x))
        u = u[:, :1]
        v = v[..., :1]  # broadcast against the other gradient
    graph = traced(function, w, v, x, u)
    assert kernel_gradients(graph) == 2
    torch.testing.assert_close(graph(w, v, x, u)[0], function(w, v, x, u)[0])


def test_what_is_written_into_meanwhile_stays():
    backward = torch.ops.aten.convolution_backward.default
    how = (None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [False, True, False])

    def function(w, v, x, u):
        slopes = x.new_ones(2, 8, 3, 3) * 2
        first = backward(slopes, x, w, *how)[1]
        slopes.mul_(3)
        return [first + backward(slopes, u, w, *how)[1]]

    args = tensors((8, 9, 3, 3), (2, 9, 3, 3))
    graph = traced(function, *args)
    assert kernel_gradients(graph) == 2
    torch.testing.assert_close(graph(*args)[0], function(*args)[0])


def test_on_other_devices_they_stay():
    args = [torch.empty(*s, device="meta") for s in ((8, 9, 3, 3),) * 2 + ((2, 9, 3, 3),) * 2]
    graph = traced(sweep_of(lambda x, w: F.conv2d(x, w, None, padding=1)), *args)
    assert kernel_gradients(graph) == 2
