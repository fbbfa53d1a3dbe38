"""Cut a traced graph in two, so that what the first half computed is kept for the second.

Used by `compile`. The backward sweep of a step recomputes the forward pass and the inner gradient,
whose values its tangents multiply. Where memory allows, the forward run can keep those values
instead. The graph of both together is traced once; everything that does not depend on the adjoints
that come back belongs to the first half. Of it the second half takes over the results of costly
operations (convolutions, products, reductions) and computes the cheap ones between them again,
which takes less time than reading them from memory and much less memory.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from dd_plugin.private import TO_COPY, UNSAFE_VIEW, operations, schema_of

# Cheap though not marked as pointwise: they make or move numbers without arithmetic.
_CHEAP = operations(
    "alias.default",
    "arange.default",
    "clone.default",
    "detach.default",
    "empty_like.default",
    "expand.default",
    "full.default",
    "full_like.default",
    "new_zeros.default",
    "ones_like.default",
    "permute.default",
    "reshape.default",
    "scalar_tensor.default",
    "select.int",
    "slice.Tensor",
    "squeeze.dim",
    "t.default",
    "transpose.int",
    "unsqueeze.default",
    "view.default",
    "zeros.default",
    "zeros_like.default",
    beside=(TO_COPY, UNSAFE_VIEW),
)


@dataclass(frozen=True)
class Halves:
    """The two graphs of `split`.

    Attributes:
        first: ``[inputs that are known at first] -> [first results, kept]``.
        second: ``[kept, all inputs] -> second results``; it ignores inputs that it does not need.
        kept_bytes: what is kept of one run of the first half.
    """

    first: GraphModule
    second: GraphModule
    kept_bytes: int


def split(graph_module: GraphModule, known: Sequence[bool], first_results: int) -> Halves | None:
    """Cut a graph without operations in place.

    Args:
        graph_module: takes a list of tensors, returns a list of tensors.
        known: for every input, whether it is known when the first half runs.
        first_results: how many of the results, from the first, are the first half's.

    Returns:
        The halves, or None where it cannot be cut: an operation works in place, or a result of the
        first half depends on what is not known yet.
    """
    graph = graph_module.graph
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    assert len(inputs) == len(known)
    late = {node for node, early in zip(inputs, known, strict=True) if not early}
    for node in graph.nodes:
        if node.op == "call_function":
            schema = schema_of(node.target)
            if schema is not None and schema.is_mutable:
                return None
        if node.op != "output" and any(source in late for source in node.all_input_nodes):
            late.add(node)
    results: list[Any] = list(graph.find_nodes(op="output")[0].args[0])
    early_results, late_results = results[:first_results], results[first_results:]
    if any(result in late for result in early_results):
        return None
    kept, needed = _boundary(late_results, late)
    passed = [node for node, early in zip(inputs, known, strict=True) if early]
    everything = [*early_results, *kept]
    first = _copy(graph_module, passed, everything, wanted=_ancestors(everything))
    second = _copy(graph_module, [*kept, *inputs], late_results, wanted=needed)
    size = sum(node.meta["val"].untyped_storage().nbytes() for node in kept)
    return Halves(first, second, size)


def _is_cheap(node: Node) -> bool:
    if node.op != "call_function":
        return False
    if node.target in _CHEAP:
        return True
    return torch.Tag.pointwise in getattr(node.target, "tags", ())


def _boundary(results: Sequence[Any], late: set[Node]) -> tuple[list[Node], set[Node]]:
    """The early nodes whose values the second half takes over, and all nodes that it computes."""
    kept: dict[Node, None] = {}
    needed: set[Node] = set()
    stack = [node for node in results if isinstance(node, Node)]
    while stack:
        node = stack.pop()
        if node in needed or node in kept or node.op in ("placeholder", "get_attr"):
            continue
        value = node.meta.get("val")
        if node in late or not isinstance(value, Tensor) or _is_cheap(node):
            needed.add(node)
            stack.extend(node.all_input_nodes)
        else:
            kept[node] = None
    return list(kept), needed


def _copy(
    source: GraphModule, inputs: Sequence[Node], results: Sequence[Any], *, wanted: set[Node]
) -> GraphModule:
    """The part of a graph that computes ``results``, through ``wanted``, from some of its nodes."""
    graph = Graph()
    copies: dict[Node, Node] = {}
    tensors = graph.placeholder("tensors")
    for position, node in enumerate(inputs):
        copies[node] = graph.call_function(operator.getitem, (tensors, position))
        copies[node].meta = dict(node.meta)
    for node in source.graph.nodes:
        if node in copies or node.op == "output":
            continue
        if node in wanted or node.op == "get_attr":
            copies[node] = graph.node_copy(node, lambda n: copies[n])
    graph.output([copies[r] if isinstance(r, Node) else r for r in results])
    graph.eliminate_dead_code()
    return GraphModule(source, graph)


def _ancestors(results: Sequence[Any]) -> set[Node]:
    ancestors: set[Node] = set()
    stack = [node for node in results if isinstance(node, Node)]
    while stack:
        node = stack.pop()
        if node not in ancestors:
            ancestors.add(node)
            stack.extend(node.all_input_nodes)
    return ancestors
