"""Two gradients of a kernel that are added, as one convolution over both batches.

Used by `passes` on a CPU. When images and kernel both move, the gradient of the kernel moves by a
sum of two: one of the moving slopes with the images, one of the slopes with the moving images. Both
write a tensor as large as the kernel, and the sum reads both and writes a third. Where the kernel
is larger than the images, as in the later stages of a ResNet, that is what they cost. A gradient of
a kernel is a sum over the batch, so one convolution with the two batches behind each other gives
their sum.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from dd_plugin.bilevel.tracing.nodes import call_node
from dd_plugin.bilevel.tracing.writes import unsteady

aten = torch.ops.aten

_SLOPES, _IMAGES, _KERNEL, _BIAS = range(4)
# What may differ between two convolutions that are one: these, and which results they compute.
_OTHERS = slice(_BIAS + 1, 10)


def merge_kernel_gradients(graph_module: GraphModule) -> None:
    """Compute sums of two gradients of a large kernel by one convolution, in place."""
    graph = graph_module.graph
    shaky = unsteady(graph)
    for node in list(graph.nodes):
        if node.target is not aten.add.Tensor or node.kwargs or len(node.args) != 2:
            continue
        pair = [_convolution_of(summand) for summand in node.args]
        if None in pair or not _go_together(*pair):
            continue
        # Both are computed later than they were: what they read must still be there.
        read = {source for convolution in pair for source in convolution.all_input_nodes}
        if not shaky.isdisjoint((node, *node.all_input_nodes, *pair, *read)):
            continue
        first, second = (convolution.args for convolution in pair)
        with graph.inserting_before(node):
            batches = [
                call_node(graph, aten.cat.default, [first[place], second[place]])
                for place in (_SLOPES, _IMAGES)
            ]
            kernel, others = first[_KERNEL], first[_OTHERS]
            backward = call_node(
                graph,
                aten.convolution_backward.default,
                *(*batches, kernel, None, *others, [False, True, False]),
            )
            total = graph.call_function(operator.getitem, (backward, 1))
            total.meta["val"] = backward.meta["val"][1]
            if total.meta["val"].stride() != node.meta["val"].stride():
                total = call_node(graph, aten.clone.default, total, memory_format=_layout_of(node))
        node.replace_all_uses_with(total)
        graph.erase_node(node)
    graph.eliminate_dead_code()


def _convolution_of(summand: Any) -> Any:
    """The convolution that has a value as its gradient for the kernel, if nothing else has it."""
    if not isinstance(summand, Node) or summand.target is not operator.getitem:
        return None
    source, place = summand.args
    if not isinstance(source, Node) or source.target is not aten.convolution_backward.default:
        return None
    return source if place == 1 and len(summand.users) == 1 else None


def _go_together(first: Any, second: Any) -> bool:
    """Whether two convolutions differ in values alone, and their kernel is larger than the rest."""
    one, other = first.args, second.args
    if first is second or one[_OTHERS] != other[_OTHERS]:
        return False
    if any(_kind(a) != _kind(b) for a, b in zip(one[:_BIAS], other[:_BIAS], strict=True)):
        return False
    slopes, images, kernel = (node.meta["val"] for node in one[:_BIAS])
    large = kernel.numel() >= slopes.numel() + images.numel()
    return bool(kernel.device.type == "cpu" and large)


def _kind(node: Any) -> Any:
    value: Tensor = node.meta["val"]
    return value.shape, value.dtype, value.device


def _layout_of(node: Node) -> torch.memory_format:
    value = node.meta["val"]
    if value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format
