"""Two clean-ups of a traced graph that make the backward sweep cheaper, both exact.

Used by `compile.py` between tracing and the compiler. The jvp of a gradient, as torch traces it,
has waste in it that no general compiler removes, because it sits behind operations with several
results or many inputs:

- the weight gradients of the plain inner gradient, which the sweep does not want (the engine has
  kept them): `prune_convolutions` narrows what `convolution_backward` computes;
- zero tangents, for example of the images, which are carried through convolutions:
  `drop_zeros` computes with zeros at compile time.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

aten = torch.ops.aten


def clean(graph_module: GraphModule) -> GraphModule:
    """Apply both passes, in place."""
    graph_module.graph.eliminate_dead_code()
    prune_convolutions(graph_module)
    drop_zeros(graph_module)
    prune_convolutions(graph_module)
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


_ZERO_MAKERS = {
    aten.zeros.default,
    aten.zeros_like.default,
    aten.new_zeros.default,
    aten._efficientzerotensor.default,
}
# Linear in the first argument, or in either of the first two.
_LINEAR = {
    aten._to_copy.default,
    aten._unsafe_view.default,
    aten.alias.default,
    aten.clone.default,
    aten.detach.default,
    aten.div.Tensor,
    aten.expand.default,
    aten.neg.default,
    aten.permute.default,
    aten.reshape.default,
    aten.slice.Tensor,
    aten.sum.default,
    aten.sum.dim_IntList,
    aten.t.default,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.view.default,
    aten.avg_pool2d.default,
}
_BILINEAR = {aten.mul.Tensor, aten.mm.default, aten.bmm.default}


def drop_zeros(graph_module: GraphModule) -> None:
    """Follow tensors that are zero by construction, and leave out what they make superfluous.

    0 · x is taken as 0 whatever x is, as automatic differentiation does with a missing tangent.
    """
    graph = graph_module.graph
    if any(_writes_floats(node) for node in graph.nodes):
        return  # a zero that is written into is none
    zeros: set[Node] = set()
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if _is_zero(node, zeros):
            zeros.add(node)
        elif node.target in (aten.add.Tensor, aten.sub.Tensor) and not node.kwargs:
            _drop_summand(node, zeros)
    graph.eliminate_dead_code()


def _writes_floats(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return False
    value = node.meta.get("val")
    return not isinstance(value, Tensor) or value.is_floating_point()


def _is_zero(node: Node, zeros: set[Node]) -> bool:
    target, args = node.target, node.args
    if target in _ZERO_MAKERS:
        return True
    if target in (aten.full.default, aten.full_like.default):
        return args[1] == 0 and not isinstance(args[1], bool)
    if target is operator.getitem or target in _LINEAR:
        return args[0] in zeros
    if target in _BILINEAR:
        return args[0] in zeros or args[1] in zeros
    if target in (aten.add.Tensor, aten.sub.Tensor):
        return args[0] in zeros and args[1] in zeros
    if target is aten.convolution.default:
        return args[2] is None and (args[0] in zeros or args[1] in zeros)
    if target is aten.convolution_backward.default:
        mask: Any = list(args[-1])  # type: ignore[arg-type]
        if mask == [True, False, False]:
            return args[0] in zeros or args[2] in zeros
        if mask == [False, True, False]:
            return args[0] in zeros or args[1] in zeros
    return False


def _same_kind(a: Any, b: Node) -> bool:
    if not isinstance(a, Node):
        return False
    x, y = a.meta.get("val"), b.meta.get("val")
    return (
        isinstance(x, Tensor)
        and isinstance(y, Tensor)
        and x.shape == y.shape
        and x.dtype == y.dtype
        and x.stride() == y.stride()
    )


def _drop_summand(node: Node, zeros: set[Node]) -> None:
    first, second = node.args
    if second in zeros and _same_kind(first, node):
        node.replace_all_uses_with(first)  # type: ignore[arg-type]
    elif node.target is aten.add.Tensor and first in zeros and _same_kind(second, node):
        node.replace_all_uses_with(second)  # type: ignore[arg-type]
