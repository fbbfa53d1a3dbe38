"""Clean-ups of a traced graph that make the backward sweep cheaper, all exact.

Used by `compile` on every graph that was traced. The jvp of a gradient, as torch traces it, has
waste in it that no general compiler removes, because it sits behind operations with several results
or many inputs:

- the weight gradients of the plain inner gradient, which the sweep does not want (the engine has
  kept them): `prune_convolutions` narrows what `convolution_backward` computes;
- zero tangents, for example of the images, which are carried through convolutions:
  `drop_zeros` computes with zeros at compile time;
- two gradients of a kernel that are added: see `kernel_gradients`;
- convolutions whose result is one pixel, for which a product is enough: see `one_pixel`.

On the ConvNet of the benchmark these and a formula for average pooling (`foreign_models.pooling`)
took the compiled sweep from 230 ms to 154 ms, most of it by what then becomes possible: leaving
activations in their plain layout, in which reductions over a channel run through contiguous memory.
"""

from __future__ import annotations

import operator
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from dd_plugin.bilevel.tracing.kernel_gradients import merge_kernel_gradients
from dd_plugin.bilevel.tracing.one_pixel import multiply_single_pixels
from dd_plugin.bilevel.tracing.writes import unsteady
from dd_plugin.private import EFFICIENT_ZEROS, TO_COPY, UNSAFE_VIEW, operations

aten = torch.ops.aten


def clean(graph_module: GraphModule) -> GraphModule:
    """Apply the passes, in place."""
    graph_module.graph.eliminate_dead_code()
    prune_convolutions(graph_module)
    drop_zeros(graph_module)
    merge_kernel_gradients(graph_module)
    prune_convolutions(graph_module)
    multiply_single_pixels(graph_module)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()
    return graph_module


def prune_convolutions(graph_module: GraphModule) -> None:
    """Compute only those results of a `convolution_backward` that something uses."""
    for node in graph_module.graph.nodes:
        if node.op == "call_function" and node.target is aten.convolution_backward.default:
            used = {user.args[1] for user in node.users if user.target is operator.getitem}
            mask = [bool(wanted) and i in used for i, wanted in enumerate(node.args[-1])]
            node.args = (*node.args[:-1], mask)
    graph_module.graph.eliminate_dead_code()


_ZERO_MAKERS = operations(
    *("zeros.default", "zeros_like.default", "new_zeros.default"), beside=(EFFICIENT_ZEROS,)
)
# Linear in the first argument, or in either of the first two.
_LINEAR = operations(
    "alias.default",
    "clone.default",
    "detach.default",
    "div.Tensor",
    "expand.default",
    "neg.default",
    "permute.default",
    "reshape.default",
    "slice.Tensor",
    "sum.default",
    "sum.dim_IntList",
    "t.default",
    "transpose.int",
    "unsqueeze.default",
    "squeeze.dim",
    "view.default",
    "avg_pool2d.default",
    beside=(TO_COPY, UNSAFE_VIEW),
)
_BILINEAR = operations("mul.Tensor", "mm.default", "bmm.default")


def drop_zeros(graph_module: GraphModule) -> None:
    """Follow tensors that are zero by construction, and leave out what they make superfluous.

    0 · x is taken as 0 whatever x is, as automatic differentiation does with a missing tangent.
    """
    graph = graph_module.graph
    shaky = unsteady(graph)
    zeros: set[Node] = set()
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if _is_zero(node, zeros):
            if node not in shaky:
                zeros.add(node)
        elif (
            node.target in (aten.add.Tensor, aten.sub.Tensor)
            and not node.kwargs
            and shaky.isdisjoint((node, *node.all_input_nodes))
        ):
            _drop_summand(node, zeros)
    graph.eliminate_dead_code()


def _is_zero(node: Node, zeros: set[Node]) -> bool:
    target, args = node.target, node.args
    if target in _ZERO_MAKERS:
        return True
    if target in (aten.full.default, aten.full_like.default):
        return not isinstance(args[1], bool) and args[1] in (0, 0.0)
    if target is operator.getitem or target in _LINEAR:
        return args[0] in zeros
    if target in _BILINEAR:
        return args[0] in zeros or args[1] in zeros
    if target in (aten.add.Tensor, aten.sub.Tensor):
        return args[0] in zeros and args[1] in zeros
    if target is aten.convolution.default:
        return args[2] is None and (args[0] in zeros or args[1] in zeros)
    if target is aten.convolution_backward.default:
        mask = args[-1]
        if mask == [True, False, False]:
            return args[0] in zeros or args[2] in zeros
        if mask == [False, True, False]:
            return args[0] in zeros or args[1] in zeros
    return False


def _same_kind(a: Any, b: Node) -> TypeGuard[Node]:
    """Whether ``a`` is a node whose value has the shape, dtype and strides of that of ``b``."""
    if not isinstance(a, Node):
        return False
    x, y = a.meta.get("val"), b.meta.get("val")
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        return False
    return (x.shape, x.dtype, x.stride()) == (y.shape, y.dtype, y.stride())


def _drop_summand(node: Node, zeros: set[Node]) -> None:
    first, second = node.args
    if second in zeros and _same_kind(first, node):
        node.replace_all_uses_with(first)
    elif node.target is aten.add.Tensor and first in zeros and _same_kind(second, node):
        node.replace_all_uses_with(second)
    elif first in zeros and _same_kind(second, node):
        with node.graph.inserting_before(node):
            negative = node.graph.call_function(aten.neg.default, (second,))
        negative.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(negative)
