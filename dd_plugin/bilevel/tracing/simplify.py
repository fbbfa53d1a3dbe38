"""What a traced graph computes twice, or for nothing, or by a slow kernel, taken out.

Used by `compile` after `passes`, for graphs that are run as they are: a compiler does most of
this by itself. Tracing the jvp of a gradient leaves many copies of the same value, since every
derivative rule of a layer starts from the layer's inputs; on small networks each costs as much to
launch as to compute, on larger ones a pass over the activations.

All but the last are exact to the bit:

- `drop_copies`: aliases, copies and expansions that change nothing, products with ones;
- `share`: one node for equal operations on the same values;
- `negate_the_smaller`: the sign of the smaller factor of a product;
- `negate_after_sum`: the sign of a sum instead of the signs of its terms;
- `repeat_pooling_gradients`, on a GPU: the gradient of average pooling as a copy;
- `add_products`: a + b * c as one operation, which rounds less.

What is slow because of the operations that a model is written in is not mended here: BatchNorm
(`dd_plugin.bn.rules`) and average pooling (`foreign_models.pooling`) trace into fast ones. Against
torch's kernels for both, a traced hypergradient on 10 images of 32x32 took 0.95 of the time on
timm's resnet10t and on a small ResNet of transformers, and 0.96 on a small DenseNet of timm and on
`dd_convnet` (medians of 9 turns, one core; ``tests/benchmarks/two_trees.py``).
"""

from __future__ import annotations

import operator
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from dd_plugin.bilevel.tracing.nodes import call_node
from dd_plugin.bilevel.tracing.recorded import on_gpu
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


def simplify(graph_module: GraphModule) -> GraphModule:
    """Apply the passes, in place."""
    repeat_pooling_gradients(graph_module)
    negate_the_smaller(graph_module)
    negate_after_sum(graph_module)
    drop_copies(graph_module)
    share(graph_module)
    add_products(graph_module)
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


def negate_the_smaller(graph_module: GraphModule) -> None:
    """(-x) * y as x * (-y) where y is smaller, and as -(x * y) where a sum over that is taken.

    The step back through an optimizer has both, for every weight.
    """
    graph = graph_module.graph
    shaky, sums = unsteady(graph), (aten.sum.default, aten.sum.dim_IntList)
    for node in list(graph.nodes):
        if node.target is not aten.mul.Tensor or node in shaky or node.kwargs:
            continue
        first, second = node.args
        negative, other = (first, second) if _is_negative(first) else (second, first)
        if not _is_negative(negative) or not isinstance(other, Node):
            continue
        x = negative.args[0]
        if shaky.intersection((negative, other, x)) or _size(x) != _size(node):
            continue
        if not _has_sign(x) or not _has_sign(other):
            continue
        with graph.inserting_before(node):
            if _size(other) < _size(x):
                product = call_node(
                    graph, aten.mul.Tensor, x, call_node(graph, aten.neg.default, other)
                )
            elif all(user.target in sums for user in node.users):
                product = call_node(
                    graph, aten.neg.default, call_node(graph, aten.mul.Tensor, x, other)
                )
            else:
                continue
        node.replace_all_uses_with(product)
    graph.eliminate_dead_code()


def _is_negative(node: Any) -> TypeGuard[Node]:
    return isinstance(node, Node) and node.target is aten.neg.default


def _has_sign(node: Any) -> bool:
    """Whether the sign may be taken: not of masks."""
    has_sign: bool = node.meta["val"].is_floating_point()
    return has_sign


def _size(node: Any) -> int:
    size: int = node.meta["val"].numel()
    return size


def add_products(graph_module: GraphModule) -> None:
    """Compute a + b * c and a - b * c in one pass over the values, where b or c is a single number.

    An optimizer consists of them. The product would be as large as the weights.
    """
    graph = graph_module.graph
    shaky = unsteady(graph)
    for node in list(graph.nodes):
        if node.target not in (aten.add.Tensor, aten.sub.Tensor) or node in shaky or node.kwargs:
            continue
        summand, product = node.args
        if node.target is aten.add.Tensor and not _is_product(product):
            summand, product = product, summand
        if not _is_product(product) or len(product.users) > 1 or product in shaky:
            continue
        large, number = product.args
        if not _alike_values(large, node):
            large, number = number, large
        if not _alike_values(large, node) or not _alike_values(summand, node):
            continue
        sign = 1 if node.target is aten.add.Tensor else -1
        with graph.inserting_before(node):
            if isinstance(number, (int, float)):
                total = call_node(graph, aten.add.Tensor, summand, large, alpha=sign * number)
            elif _is_number_of(number, node):
                total = call_node(graph, aten.addcmul.default, summand, large, number, value=sign)
            else:
                continue
        node.replace_all_uses_with(total)
    graph.eliminate_dead_code()


def _is_product(node: Any) -> TypeGuard[Node]:
    return isinstance(node, Node) and node.target is aten.mul.Tensor and not node.kwargs


def _alike_values(value: Any, node: Node) -> TypeGuard[Node]:
    """Whether a value is a tensor of floating-point numbers, like a node's."""
    return isinstance(value, Node) and _alike(value, node) and _has_sign(value)


def _is_number_of(value: Any, node: Node) -> bool:
    """Whether a value is one number, of the kind of a node's."""
    if not isinstance(value, Node):
        return False
    number, like = value.meta["val"], node.meta["val"]
    same = (number.dtype, number.device) == (like.dtype, like.device)
    return same and number.dim() == 0


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


def repeat_pooling_gradients(graph_module: GraphModule) -> None:
    """On a GPU, copy the gradient of an average over a tile to each of its inputs.

    torch's kernel for it takes any window, and asks for each input which ones it is in.
    """
    graph = graph_module.graph
    for node in list(graph.nodes):
        if node.target is not aten.avg_pool2d_backward.default:
            continue
        value, kernel = node.meta["val"], _tile(node)
        if kernel is None or not on_gpu([value]):
            continue
        (k_h, k_w), (*outer, height, width) = kernel, value.shape
        with graph.inserting_before(node):
            gradient = call_node(graph, aten.mul.Tensor, node.args[0], 1.0 / (k_h * k_w))
            for axis in (-1, -3):
                gradient = call_node(graph, aten.unsqueeze.default, gradient, axis)
            sizes = [*outer, height // k_h, k_h, width // k_w, k_w]
            gradient = call_node(graph, aten.expand.default, gradient, sizes)
            gradient = call_node(graph, aten.reshape.default, gradient, list(value.shape))
        node.replace_all_uses_with(gradient)
        graph.erase_node(node)


def _tile(pooling: Node) -> tuple[int, int] | None:
    """The window of a gradient of average pooling; None where windows do not tile its value."""
    _, _, kernel, stride, padding, _, _, divisor = pooling.args
    tile = _pair(kernel)
    if divisor is not None or any(_pair(padding)) or (stride and _pair(stride) != tile):
        return None
    height, width = pooling.meta["val"].shape[-2:]
    return None if height % tile[0] or width % tile[1] else tile


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
