"""Who imports whom: circles, two-way imports, imports past a part's `__init__`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

from tests.house.source import File, modules_imported

T = TypeVar("T", bound=Hashable)


def import_graph(files: list[File]) -> dict[str, set[str]]:
    """Modules to the modules that they import; imports for type checking count.

    The package's own `__init__` is left out. It names everything for users, lazily, and has the
    version, so with it everything would be one circle.
    """
    root = files[0].package
    modules = {file.module for file in files}
    return {
        file.module: {m for _, m in modules_imported(file, modules)} - {file.module, root}
        for file in files
        if file.module != root
    }


def circles(graph: Mapping[T, set[T]]) -> list[set[T]]:
    """The sets of nodes that reach each other, those of more than one (Tarjan's algorithm)."""
    index: dict[T, int] = {}
    low: dict[T, int] = {}
    stack: list[T] = []
    found: list[set[T]] = []

    def visit(node: T) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            circle = set(stack[stack.index(node) :])
            del stack[stack.index(node) :]
            if len(circle) > 1:
                found.append(circle)

    for node in graph:
        if node not in index:
            visit(node)
    return found


def two_way(graph: Mapping[str, set[str]]) -> list[str]:
    """Pairs that import each other."""
    pairs = {(a, b) for a, others in graph.items() for b in others}
    return sorted(f"{a} <-> {b}" for a, b in pairs if a < b and (b, a) in pairs)


def past_init(files: list[File]) -> list[str]:
    """Imports from a file of another part, where its `__init__` would be the door."""
    modules = {file.module for file in files}
    packages = {file.module for file in files if file.path.name == "__init__.py"}
    found = []
    for file in files:
        seen = set()
        for node, module in modules_imported(file, modules):
            parts = module.split(".")
            other = len(parts) > 1 and parts[1] != file.part
            inside = len(parts) > 2 and ".".join(parts[:2]) in packages
            if other and inside and (node.lineno, module) not in seen:
                seen.add((node.lineno, module))
                found.append(f"{file.at(node)} {module}")
    return found
