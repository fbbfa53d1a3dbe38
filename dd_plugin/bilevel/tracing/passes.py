"""Clean-ups of a traced graph that make the backward sweep cheaper, all exact.

Used by `compile.py` between tracing and the compiler. The jvp of a gradient, as torch traces it,
has waste in it that no general compiler removes, because it sits behind operations with several
results or many inputs:

- the weight gradients of the plain inner gradient, which the sweep does not want (the engine has
  kept them): `prune_convolutions` narrows what `convolution_backward` computes;
- zero tangents, for example of the images, which are carried through convolutions:
  `drop_zeros` computes with zeros at compile time.

On CPU, `spread_by_matmul` writes the backward of average pooling in a form that the compiler can
vectorise together with its neighbours. On the ConvNet of the benchmark the three took the sweep
from 230 ms to 154 ms, most of it by what then becomes possible: leaving activations in their
plain layout, in which reductions over a channel run through contiguous memory.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from dd_plugin.bilevel.tracing.writes import unsteady
from dd_plugin.private import EFFICIENT_ZEROS, TO_COPY, UNSAFE_VIEW, operations, schema_of

aten = torch.ops.aten

# Where a value without data says that it belongs: those of nodes that a pass for the CPU made are
# on the meta device.
ON_CPU = ("cpu", "meta")


def clean(graph_module: GraphModule, *, for_compiler: bool = True) -> GraphModule:
    """Apply the passes, in place; `spread_by_matmul`, which pays with a compiler only, for one."""
    graph_module.graph.eliminate_dead_code()
    prune_convolutions(graph_module)
    drop_zeros(graph_module)
    prune_convolutions(graph_module)
    if for_compiler:
        spread_by_matmul(graph_module)
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
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        return False
    return (x.shape, x.dtype, x.stride()) == (y.shape, y.dtype, y.stride())


def _drop_summand(node: Node, zeros: set[Node]) -> None:
    first, second = node.args
    if second in zeros and _same_kind(first, node):
        node.replace_all_uses_with(first)  # type: ignore[arg-type]
    elif node.target is aten.add.Tensor and first in zeros and _same_kind(second, node):
        node.replace_all_uses_with(second)  # type: ignore[arg-type]
    elif first in zeros and _same_kind(second, node):
        with node.graph.inserting_before(node):
            negative = node.graph.call_function(aten.neg.default, (second,))
        negative.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(negative)


def spread_by_matmul(graph_module: GraphModule) -> None:
    """On CPU, repeat the gradient of an average pooling with a product instead of an index.

    For windows that neither overlap nor pad, the gradient of each output goes to k·k inputs,
    divided by k·k. Indexing with ``column // k`` keeps the compiler from using vectors; so columns
    are repeated by a product with a matrix of zeros and 1/k², rows by a broadcast.
    """
    graph = graph_module.graph
    if TO_COPY is None:
        return
    for node in list(graph.nodes):
        if node.target is not aten.avg_pool2d_backward.default or not tiles_on_cpu(node, node):
            continue
        value = node.meta["val"]
        *outer, height, width = value.shape
        k_h, k_w = _pair(node.args[2])
        rows = height // k_h
        with graph.inserting_before(node):

            def call(target: Any, *args: Any, **options: Any) -> Node:
                return graph.call_function(target, args, options)

            index = {"dtype": torch.int64, "device": value.device}
            source = call(aten.arange.default, width // k_w, **index)
            target = call(aten.arange.default, width, **index)
            target = call(aten.div.Tensor_mode, target, k_w, rounding_mode="floor")
            spread = call(aten.eq.Tensor, call(aten.unsqueeze.default, source, 1), target)
            spread = call(TO_COPY, spread, dtype=value.dtype)
            spread = call(aten.div.Tensor, spread, float(k_h * k_w))
            flat = call(aten.reshape.default, node.args[0], [-1, width // k_w])
            wide = call(aten.mm.default, flat, spread)
            wide = call(aten.view.default, wide, [*outer, rows, 1, width])
            wide = call(aten.expand.default, wide, [*outer, rows, k_h, width])
            result = call(aten.reshape.default, wide, [*outer, height, width])
        result.meta["val"] = value
        node.replace_all_uses_with(result)
        graph.erase_node(node)


def _pair(value: Any) -> tuple[int, int]:
    return (value[0], value[-1])


def tiles_on_cpu(pooling: Node, wide: Any) -> bool:
    """Whether an average pooling, or its gradient, is on CPU and its windows tile ``wide``."""
    return tiles(pooling, wide) and wide.meta["val"].device.type in ON_CPU


def tiles(pooling: Node, wide: Any) -> bool:
    """Whether the windows of an average pooling, or of its gradient, tile ``wide``."""
    value = wide.meta.get("val")
    schema: Any = schema_of(pooling.target)
    given = dict(zip([argument.name for argument in schema.arguments], pooling.args, strict=False))
    given |= pooling.kwargs
    if not isinstance(value, Tensor):
        return False
    if given.get("divisor_override") is not None or any(given.get("padding") or ()):
        return False
    k, stride = _pair(given["kernel_size"]), given.get("stride")
    divides = all(size % edge == 0 for size, edge in zip(value.shape[-2:], k, strict=True))
    return divides and (not stride or _pair(stride) == k)
