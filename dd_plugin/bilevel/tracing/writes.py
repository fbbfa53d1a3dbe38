"""What an operation writes into, read off its schema, and graphs in which nothing is written into.

Beside `compile` and its passes, and `functional`, which asks what a model writes into. An operation
in place writes into its first argument, but others write into ``out=``, into several arguments, or
into a view of something else. The schema of an operation says which; nothing here goes by position.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from dd_plugin.private import DISPATCH_MODE, TO_COPY, UNSAFE_VIEW, operations, schema_of

aten = torch.ops.aten

# Reshapes may or may not copy.
_RESHAPES = operations("reshape.default", beside=(UNSAFE_VIEW,))


def written_arguments(
    target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], kind: type = Node
) -> Iterator[Any]:
    """The arguments of a call, of a kind, that the operation writes into."""
    schema = schema_of(target)
    if schema is None or not schema.is_mutable:
        return
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        parts = value if isinstance(value, (list, tuple)) else [value]
        yield from (part for part in parts if isinstance(part, kind))


def writes(node: Node) -> bool:
    """Whether a node writes into anything."""
    return writes_by_schema(node.target)


def writes_by_schema(target: Any) -> bool:
    """Whether an operation writes into anything."""
    schema = schema_of(target)
    return schema is not None and bool(schema.is_mutable)


def _shared(node: Node) -> list[Node]:
    """The arguments whose memory the result of a node may be in."""
    if node.target is operator.getitem:
        return [part for part in node.args[:1] if isinstance(part, Node)]
    schema = schema_of(node.target)
    if schema is None or node.target is TO_COPY:
        return []
    copies = node.target in _RESHAPES
    shared: list[Node] = []
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None or (copies and position == 0):
            by_position = position < len(node.args)
            value: Any = node.args[position] if by_position else node.kwargs.get(argument.name)
            parts = value if isinstance(value, (list, tuple)) else [value]
            shared += [part for part in parts if isinstance(part, Node)]
    return shared


def owners(node: Node) -> set[Node]:
    """The nodes that made the memory which the result of a node may be in; itself, or others."""
    makers: set[Node] = set()
    stack, seen = [node], {node}
    while stack:
        current = stack.pop()
        sources = _shared(current)
        if not sources:
            makers.add(current)
        stack += [source for source in sources if source not in seen]
        seen.update(sources)
    return makers


def written_memory(graph: Graph) -> set[Node]:
    """The nodes that made what any operation of a graph writes into."""
    return {
        owner
        for node in graph.nodes
        if node.op == "call_function"
        for argument in written_arguments(node.target, node.args, node.kwargs)
        for owner in owners(argument)
    }


def unsteady(graph: Graph) -> set[Node]:
    """The nodes whose value may change after they are computed, and what changes them."""
    written = written_memory(graph)
    if not written:
        return set()
    return {node for node in graph.nodes if writes(node) or not written.isdisjoint(owners(node))}


def keep_inputs(graph_module: GraphModule) -> None:
    """Let the operations of a graph that write into its inputs write into copies of them."""
    graph = graph_module.graph
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    for node in written_memory(graph).intersection(inputs):
        with graph.inserting_after(inputs[-1]):
            copy = graph.call_function(aten.clone.default, (node,))
        copy.meta = dict(node.meta)
        for user in [user for user in node.users if user is not copy]:
            user.replace_input_with(node, copy)


def replace_private_writes(graph_module: GraphModule) -> None:
    """Replace operations in place on values that nothing else looks at any more.

    torch's own derivatives have such, and this is much faster than to record the graph again.
    """
    graph = graph_module.graph
    order = {node: index for index, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if node.op != "call_function" or not writes(node):
            continue
        written = list(written_arguments(node.target, node.args, node.kwargs))
        source: Any = node.args[0] if node.args else None
        if written != [source] or source.op != "call_function" or _shared(source):
            continue
        others = [user for user in source.users if user is not node]
        if any(order[user] > order[node] or source in _shared(user) for user in others):
            continue
        plain = _without_underscore(node)
        if plain is not None:
            node.target = plain
    graph_module.recompile()


def _without_underscore(node: Node) -> Any:
    """The operation that returns what one in place writes into its first argument, or None."""
    packet = str(node.target).removeprefix("aten.").rpartition(".")
    name, overload = packet[0], packet[2]
    plain = getattr(getattr(aten, name.removesuffix("_"), None), overload, None)
    if not name.endswith("_") or plain is None or writes_by_schema(plain):
        return None

    def without_data(value: Node) -> Any:
        tensor = value.meta["val"]
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")

    try:
        args: Any = map_arg(node.args, without_data)
        options: Any = map_arg(node.kwargs, without_data)
        result, before = plain(*args, **options), args[0]
    except (RuntimeError, TypeError, KeyError, AttributeError, NotImplementedError):
        return None
    # An operation in place keeps the type of what it writes into.
    alike = isinstance(result, Tensor) and result.dtype == before.dtype
    return plain if alike and result.shape == before.shape else None


def without_writes(
    graph_module: GraphModule, trace: Callable[[Callable[..., Any]], GraphModule]
) -> GraphModule:
    """The same graph in operations that write into nothing, as far as torch has such.

    Args:
        graph_module: as it was recorded.
        trace: records the operations of a function of the same inputs.
    """
    replace_private_writes(graph_module)
    if any(map(writes, graph_module.graph.nodes)):
        keep_inputs(graph_module)
        graph_module.recompile()
        functional = torch.func.functionalize(graph_module)
        try:
            graph_module = trace(functional)
        except (RuntimeError, NotImplementedError):
            return graph_module  # an operation has no such form; its writes are respected
    return graph_module


class WrittenTensors(DISPATCH_MODE):
    """A context that takes note of the memory that operations write into.

    In a torch without `TorchDispatchMode` it notes nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._places: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for tensor in written_arguments(func, args, kwargs or {}, Tensor):
            self._places.add(_place(tensor))
        return func(*args, **(kwargs or {}))

    def __contains__(self, tensor: Tensor) -> bool:
        """Whether anything was written into the memory of a tensor."""
        place = _place(tensor)
        return place != 0 and place in self._places  # 0 is where all empty tensors are


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
