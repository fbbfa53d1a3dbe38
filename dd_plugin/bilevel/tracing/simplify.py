"""What a traced graph computes twice, or for nothing, or by a slow kernel, taken out.

Used by `compile` after `passes`, for graphs that are run as they are: a compiler does most of
this by itself. Tracing the jvp of a gradient leaves many copies of the same value, since every
derivative rule of a layer starts from the layer's inputs; on small networks each costs as much to
launch as to compute, on larger ones a pass over the activations.

The first three passes are exact to the bit. The last two, on CPU only, replace kernels that torch
2.15 does not vectorise, and agree with them as any two orders of summation do:

- `drop_copies`: aliases, copies and expansions that change nothing, products with ones;
- `share`: one node for equal operations on the same values;
- `negate_after_sum`: the sign of a sum instead of the signs of its terms;
- `moments_by_sums`: mean and variance over all but the channels, in two passes of plain sums;
- `pool_by_slices`: average pooling as a sum of slices, and its gradient as a product with a matrix.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from dd_plugin.bilevel.tracing.passes import ON_CPU, tiles, tiles_on_cpu
from dd_plugin.bilevel.tracing.writes import unsteady
from dd_plugin.private import TO_COPY, operations, schema_of

aten = torch.ops.aten

_MADE_OF_ONES = operations("ones.default", "ones_like.default", "new_ones.default")
# They hand over the values of their first argument, in another shape or place at most.
_SAME_VALUES = operations(
    "alias.default",
    "clone.default",
    "detach.default",
    "expand.default",
    "view.default",
    beside=(TO_COPY,),
)
# Wider rows make the product with a matrix that is mostly zeros slower than the kernel.
_WIDEST_ROW = 64


def simplify(graph_module: GraphModule) -> GraphModule:
    """Apply the passes, in place."""
    moments_by_sums(graph_module)
    pool_by_slices(graph_module)
    negate_after_sum(graph_module)
    drop_copies(graph_module)
    share(graph_module)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()
    return graph_module


def drop_copies(graph_module: GraphModule) -> None:
    """Use a value itself where an operation only hands it over, or multiplies it by ones."""
    graph = graph_module.graph
    shaky, results = unsteady(graph), _results(graph_module)
    ones: set[Node] = set()
    for node in list(graph.nodes):
        if node.op != "call_function" or node in shaky or node.kwargs.get("pin_memory"):
            continue
        source = node.args[0] if node.args else None
        if node.target in _MADE_OF_ONES or (node.target in _SAME_VALUES and source in ones):
            ones.add(node)
        if node.target is aten.mul.Tensor:
            first, second = node.args
            source = second if first in ones else first if second in ones else None
            if first in ones and second in ones:
                ones.add(node)
        elif node.target not in _SAME_VALUES:
            continue
        # A result stays memory of its own, unless it was another's before.
        if node in results and node.target is not aten.alias.default:
            continue
        if isinstance(source, Node) and source not in shaky and _alike(source, node):
            node.replace_all_uses_with(source)
    graph.eliminate_dead_code()


def share(graph_module: GraphModule) -> None:
    """Compute every value once."""
    graph = graph_module.graph
    shaky, results = unsteady(graph), _results(graph_module)
    known: dict[Any, Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or not _is_function(node.target):
            continue
        if node in shaky or any(source in shaky for source in node.all_input_nodes):
            continue
        key = (node.target, _key(node.args), _key(node.kwargs))
        first = known.setdefault(key, node)
        if first is not node and not (node in results and first in results):
            node.replace_all_uses_with(first)
    graph.eliminate_dead_code()


def negate_after_sum(graph_module: GraphModule) -> None:
    """sum(-x) as -sum(x): the sign of what is left, not of every value."""
    graph = graph_module.graph
    shaky = unsteady(graph)
    for node in list(graph.nodes):
        if node.target not in (aten.sum.default, aten.sum.dim_IntList):
            continue
        negative = node.args[0]
        if not isinstance(negative, Node) or negative.target is not aten.neg.default:
            continue
        if negative in shaky or negative.args[0] in shaky:
            continue
        if node.meta["val"].numel() == negative.meta["val"].numel():
            continue
        with graph.inserting_before(node):
            total = graph.call_function(
                node.target, (negative.args[0], *node.args[1:]), node.kwargs
            )
            turned = graph.call_function(aten.neg.default, (total,))
        total.meta["val"] = turned.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(turned)
        graph.erase_node(node)
    graph.eliminate_dead_code()


def moments_by_sums(graph_module: GraphModule) -> None:
    """On CPU, moments over all but dimension 1 as sums; what they center is often wanted anyway."""
    graph = graph_module.graph
    for node in list(graph.nodes):
        if node.target is not aten.var_mean.correction or node.kwargs.get("keepdim"):
            continue
        x = node.args[0]
        value = x.meta["val"]
        dims = [d % value.dim() for d in (node.args[1] if len(node.args) > 1 else None) or []]
        over_all_but_channels = value.dim() > 1 and dims == [0, *range(2, value.dim())]
        wide = value.dtype in (torch.float32, torch.float64)
        correction = node.kwargs.get("correction", 1)
        count = math.prod(value.shape[d] for d in dims)
        if not over_all_but_channels or not wide or value.device.type not in ON_CPU:
            continue
        if correction is None or count <= correction:
            continue
        with graph.inserting_before(node):
            total = _call(graph_module, aten.sum.dim_IntList, x, dims)
            mean = _call(graph_module, aten.div.Tensor, total, count)
            # Written as the layer writes it, so that `share` makes one node of both.
            shape = [1, -1] + [1] * (value.dim() - 2)
            spread = _call(graph_module, aten.view.default, mean, shape)
            centered = _call(graph_module, aten.sub.Tensor, x, spread)
            squares = _call(graph_module, aten.mul.Tensor, centered, centered)
            total = _call(graph_module, aten.sum.dim_IntList, squares, dims)
            variance = _call(graph_module, aten.div.Tensor, total, count - correction)
        for user in list(node.users):
            assert user.target is operator.getitem
            user.replace_all_uses_with(mean if user.args[1] else variance)
    graph.eliminate_dead_code()


def pool_by_slices(graph_module: GraphModule) -> None:
    """Average pooling whose windows tile the input, without the operation for any windows.

    On CPU slices forward and a product backward, on a GPU a copy backward.
    """
    graph = graph_module.graph
    for node in list(graph.nodes):
        make: Callable[[GraphModule, Node], Node]
        if node.target is aten.avg_pool2d.default and tiles_on_cpu(node, node.args[0]):
            make = _pooled
        elif node.target is aten.avg_pool2d_backward.default and tiles_on_cpu(node, node):
            if TO_COPY is None or node.meta["val"].shape[-1] > _WIDEST_ROW:
                continue
            make = _spread
        elif node.target is aten.avg_pool2d_backward.default and tiles(node, node):
            make = _repeated
        else:
            continue
        with graph.inserting_before(node):
            made = make(graph_module, node)
        node.replace_all_uses_with(made)
        graph.erase_node(node)
    graph.eliminate_dead_code()


def _pooled(graph_module: GraphModule, node: Node) -> Node:
    """The average of each window: rows are added first, which are contiguous, then columns."""

    def call(target: Any, *args: Any) -> Node:
        return _call(graph_module, target, *args)

    x: Any = node.args[0]
    dim = x.meta["val"].dim()
    total, kernel = x, _pair(node.args[1])
    for axis, edge in ((dim - 2, kernel[0]), (dim - 1, kernel[1])):
        source = total
        parts = [
            call(aten.slice.Tensor, source, axis, i, torch.iinfo(torch.int64).max, edge)
            for i in range(edge)
        ]
        total = parts[0]
        for part in parts[1:]:
            total = call(aten.add.Tensor, total, part)
    return call(aten.mul.Tensor, total, 1.0 / (kernel[0] * kernel[1]))


def _repeated(graph_module: GraphModule, node: Node) -> Node:
    """The gradient of each window, copied to all of its inputs."""
    value, (k_h, k_w) = node.meta["val"], _pair(node.args[2])
    *outer, height, width = value.shape
    spread = _call(graph_module, aten.mul.Tensor, node.args[0], 1.0 / (k_h * k_w))
    for axis in (-1, -3):
        spread = _call(graph_module, aten.unsqueeze.default, spread, axis)
    sizes = [*outer, height // k_h, k_h, width // k_w, k_w]
    spread = _call(graph_module, aten.expand.default, spread, sizes)
    return _call(graph_module, aten.reshape.default, spread, list(value.shape))


def _spread(graph_module: GraphModule, node: Node) -> Node:
    """The gradient of each window, to all of its inputs: k rows at a time by one product."""

    def call(target: Any, *args: Any, **options: Any) -> Node:
        return _call(graph_module, target, *args, **options)

    value = node.meta["val"]
    width, (k_h, k_w) = value.shape[-1], _pair(node.args[2])
    index = {"dtype": torch.int64, "device": value.device}
    source = call(aten.arange.default, width // k_w, **index)
    target = call(aten.arange.default, width * k_h, **index)
    target = call(aten.remainder.Scalar, target, width)
    target = call(aten.div.Tensor_mode, target, k_w, rounding_mode="floor")
    matrix = call(aten.eq.Tensor, call(aten.unsqueeze.default, source, 1), target)
    matrix = call(TO_COPY, matrix, dtype=value.dtype)
    matrix = call(aten.mul.Tensor, matrix, 1.0 / (k_h * k_w))
    flat = call(aten.reshape.default, node.args[0], [-1, width // k_w])
    return call(aten.view.default, call(aten.mm.default, flat, matrix), list(value.shape))


def _call(graph_module: GraphModule, target: Any, *args: Any, **options: Any) -> Node:
    """A new node, with the value without data that belongs to it."""
    node = graph_module.graph.call_function(target, args, options)
    if "device" in options:
        options["device"] = torch.device("meta")
    given: Any = [map_arg(part, _without_data) for part in (args, options)]
    node.meta["val"] = target(*given[0], **given[1])
    return node


def _without_data(node: Node) -> Tensor:
    value: Tensor = node.meta["val"]
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def _results(graph_module: GraphModule) -> set[Node]:
    output = next(iter(graph_module.graph.find_nodes(op="output")))
    return set(output.all_input_nodes)


def _alike(a: Node, b: Node) -> bool:
    """Whether two nodes hold tensors of the same kind, laid out in the same way."""
    x, y = a.meta.get("val"), b.meta.get("val")
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        return False
    places = {x.device, y.device} - {torch.device("meta")}
    same = (x.shape, x.dtype, x.stride()) == (y.shape, y.dtype, y.stride())
    return same and x.layout == y.layout and len(places) <= 1


def _is_function(target: Any) -> bool:
    """Whether an operation gives the same result each time and does nothing else."""
    if target is operator.getitem:
        return True
    schema = schema_of(target)
    if schema is None or schema.is_mutable:
        return False
    tags = getattr(target, "tags", ())
    return torch.Tag.nondeterministic_seeded not in tags


def _key(value: Any) -> Any:
    """Arguments as something that can be compared: types too, since 1 == 1.0 == True."""
    if isinstance(value, (list, tuple)):
        return tuple(_key(v) for v in value)
    if isinstance(value, dict):
        return tuple((name, _key(v)) for name, v in sorted(value.items()))
    return type(value), value


def _pair(value: Any) -> tuple[int, int]:
    return (value[0], value[-1])
