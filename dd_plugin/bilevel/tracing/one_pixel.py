"""Convolutions whose result is one pixel, as products of matrices, on a CPU.

Used by `passes`. The last layers of a ResNet see 1x1 pixels of a 32x32 image. A convolution there
reads its whole kernel for the one place of it that lies on the image, and the kernel's gradient is
zero at the others. A product takes a fifth to two thirds of the time
(``docs/concepts/engine-details.md``), and a sweep has eight convolutions per layer.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from dd_plugin.bilevel.tracing.nodes import call_node
from dd_plugin.bilevel.tracing.writes import unsteady

aten = torch.ops.aten


def multiply_single_pixels(graph_module: GraphModule) -> None:
    """Replace such convolutions and their gradients, in place."""
    graph = graph_module.graph
    for node in list(graph.nodes):
        if node.target is aten.convolution.default:
            window = _window(node.meta.get("val"), *node.args[:2], *node.args[3:9])
            if window is not None:
                with graph.inserting_before(node):
                    product = _as_laid_out(graph, _forward(graph, node, window), node)
                    node.replace_all_uses_with(product)
        elif node.target is aten.convolution_backward.default:
            window = _window(_value(node.args[0]), *node.args[1:3], *node.args[4:10])
            if window is not None:
                _replace_gradients(graph, node, window)
    shaky = unsteady(graph)
    for node in list(graph.nodes):
        if shaky.isdisjoint((node, *node.all_input_nodes)):
            _add_before_padding(graph, node, shaky)
    graph.eliminate_dead_code()


@dataclass(frozen=True)
class _Window:
    """The part of an image and of a kernel that meet in the one pixel of a result.

    Attributes:
        image: the shape of the images ``(N, C, H, W)``.
        kernel: that of the kernel ``(out, C, height, width)``.
        begin: the first row and column of the kernel that lie on the image.
        size: how many rows and columns do; on the image they begin at 0.
    """

    image: tuple[int, ...]
    kernel: tuple[int, ...]
    begin: tuple[int, int]
    size: tuple[int, int]


def _value(node: Any) -> Any:
    return node.meta.get("val") if isinstance(node, Node) else None


def _window(
    result: Any,
    images: Any,
    kernel: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> _Window | None:
    """Return the window of a convolution, None where it is not to be replaced."""
    x, w = _value(images), _value(kernel)
    if not all(isinstance(t, Tensor) for t in (result, x, w)) or result.device.type != "cpu":
        return None
    plain = not transposed and groups == 1 and all(d == 1 for d in dilation)
    if result.dim() != 4 or tuple(result.shape[2:]) != (1, 1) or not plain:
        return None
    pads = (padding[0], padding[-1])
    sizes = tuple(
        min(k - pad, side) for k, pad, side in zip(w.shape[2:], pads, x.shape[2:], strict=True)
    )
    # A larger part of a kernel lies scattered in memory, and copying it takes what is won.
    if sizes != (1, 1) and sizes != tuple(w.shape[2:]):
        return None
    if min(sizes) < 1 or 0 in (len(x), len(w)):
        return None
    return _Window(tuple(x.shape), tuple(w.shape), pads, (sizes[0], sizes[1]))


def _forward(graph: Graph, node: Node, window: _Window) -> Node:
    images, kernel, bias = node.args[:3]
    x, w = _on_image(graph, images, window), _on_kernel(graph, kernel, window)
    y = call_node(graph, aten.mm.default, x, call_node(graph, aten.t.default, w))
    if bias is not None:
        y = call_node(graph, aten.add.Tensor, y, bias)
    return call_node(graph, aten.view.default, y, [len(y.meta["val"]), window.kernel[0], 1, 1])


def _replace_gradients(graph: Graph, node: Node, window: _Window) -> None:
    """Replace the results of a `convolution_backward` one by one."""
    slope, images, kernel = node.args[:3]
    (n, _, height, width), (out, channels, rows, columns) = window.image, window.kernel
    (top, left), (h, w) = window.begin, window.size
    for user in list(node.users):
        if user.target is not operator.getitem:
            continue
        with graph.inserting_before(user):
            g = call_node(graph, aten.reshape.default, slope, [n, out])
            if user.args[1] == 0:
                part = call_node(graph, aten.mm.default, g, _on_kernel(graph, kernel, window))
                part = _unfolded(graph, part, [n, channels, h, w], like=images)
                pads = [0, width - w, 0, height - h]
            elif user.args[1] == 1:
                rows_of_g = call_node(graph, aten.t.default, g)
                x = _on_image(graph, images, window)
                part = call_node(graph, aten.mm.default, rows_of_g, x)
                part = _unfolded(graph, part, [out, channels, h, w], like=kernel)
                pads = [left, columns - left - w, top, rows - top - h]
            else:
                part, pads = call_node(graph, aten.sum.dim_IntList, g, [0]), []
            if any(pads):
                part = call_node(graph, aten.constant_pad_nd.default, part, pads, 0.0)
            part = _as_laid_out(graph, part, user)
        user.replace_all_uses_with(part)
        graph.erase_node(user)


def _add_before_padding(graph: Graph, node: Node, shaky: set[Node]) -> None:
    """Pad the sum of two gradients instead of each: kernels are large, and their parts are not.

    Args:
        graph: what is changed.
        node: the sum, or anything else.
        shaky: what may be written into between a padding and the sum.
    """
    if node.target is not aten.add.Tensor or node.kwargs:
        return
    first, second = node.args
    if not _is_padding(first) or not _is_padding(second) or first.args[1] != second.args[1]:
        return
    a, b = first.args[0], second.args[0]
    if _padded_with(first) != 0 or _padded_with(second) != 0:
        return
    if _value(a).shape != _value(b).shape or _value(a).dim() != 4:
        return
    if a in shaky or b in shaky:
        return
    with graph.inserting_before(node):
        total = call_node(graph, aten.add.Tensor, a, b)
        # Of a single place, strides do not tell: without this, one sum has another layout.
        total = _unfolded(graph, total, [*_value(total).shape], like=node)
        total = call_node(graph, aten.constant_pad_nd.default, total, first.args[1], 0.0)
    node.replace_all_uses_with(total)
    graph.erase_node(node)


def _is_padding(node: Any) -> TypeGuard[Node]:
    return isinstance(node, Node) and node.target is aten.constant_pad_nd.default


def _padded_with(padding: Node) -> Any:
    """The value of a padding; nought where none is written down."""
    return padding.args[2] if len(padding.args) > 2 else padding.kwargs.get("value", 0)


def _on_image(graph: Graph, images: Any, window: _Window) -> Node:
    """Return the part of each image as a row ``(N, C * size)``."""
    part = _cut(graph, images, (0, 0), window.size)
    return call_node(graph, aten.reshape.default, part, [window.image[0], -1])


def _on_kernel(graph: Graph, kernel: Any, window: _Window) -> Node:
    """Return the part of the kernel of each result as a row ``(out, C * size)``."""
    part = _cut(graph, kernel, window.begin, window.size)
    return call_node(graph, aten.reshape.default, part, [window.kernel[0], -1])


def _unfolded(graph: Graph, rows: Node, shape: list[int], *, like: Any) -> Node:
    """Return rows ``(N, C * size)`` as a tensor ``(N, C, height, width)``.

    Where the other tensor has channels last, so has what is padded to its size: a single place of
    each kernel is then one piece of memory for all channels.
    """
    n, c, h, w = shape
    if (h, w) == (1, 1) and like.meta["val"].is_contiguous(memory_format=torch.channels_last):
        places = call_node(graph, aten.view.default, rows, [n, 1, 1, c])
        return call_node(graph, aten.permute.default, places, [0, 3, 1, 2])
    return call_node(graph, aten.view.default, rows, shape)


def _as_laid_out(graph: Graph, node: Node, before: Node) -> Node:
    """Return a value that lies in memory as the one before it, which views of it rely on."""
    value, wanted = node.meta["val"], before.meta.get("val")
    last = torch.channels_last
    if value.dim() != 4 or wanted is None or not wanted.is_contiguous(memory_format=last):
        return node
    if value.is_contiguous(memory_format=last) or wanted.is_contiguous():
        return node
    return call_node(graph, aten.clone.default, node, memory_format=last)


def _cut(graph: Graph, node: Any, begin: tuple[int, int], size: tuple[int, int]) -> Node:
    for axis, (first, count) in enumerate(zip(begin, size, strict=True), start=2):
        if node.meta["val"].shape[axis] != count:
            node = call_node(graph, aten.slice.Tensor, node, axis, first, first + count)
    return node
