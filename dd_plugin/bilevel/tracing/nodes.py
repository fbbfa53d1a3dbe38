"""New nodes of a traced graph, for the passes that write them."""

from __future__ import annotations

from typing import Any

from torch.fx import Graph, Node
from torch.fx.node import map_arg


def call_node(graph: Graph, target: Any, *args: Any, **options: Any) -> Node:
    """Return a new node that calls an operation, with the value without data that it gives."""
    node = graph.call_function(target, args, options)
    node.meta["val"] = target(*map_arg(args, lambda source: source.meta["val"]), **options)
    return node
