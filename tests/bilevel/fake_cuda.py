"""torch.cuda's capture on CPU tensors, for the tests of `dd_plugin.bilevel.tracing.recorded`.

A capture notes down every operation and its tensors; a replay runs the operations again, from the
same inputs into the same outputs. As on a GPU, a capture leaves no values in what it makes, a value
that the host reads ends it, and what graphs of one pool compute in is each other's to overwrite.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dd_plugin.bilevel import recorded_run
from dd_plugin.bilevel.tracing import compile, recorded

# Bytes that the stand-in has.
MEMORY = 1 << 34


class Graph:
    """Stands for `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []
        self.graphs_of_pool: list[Graph] = [self]

    def replay(self) -> None:
        """Run what was captured once more."""
        FakeCuda.counts["replays"] += 1
        for graph in self.graphs_of_pool:
            graph.forget_values()
        for function, args, kwargs, made in self.operations:
            results = [t for t in tree_leaves(function(*args, **kwargs)) if isinstance(t, Tensor)]
            for target, result in zip(made, results, strict=True):
                if _is_made_by(function):
                    target.copy_(result)

    def forget_values(self) -> None:
        """Overwrite all that the operations have made."""
        for function, _, _, made in self.operations:
            for t in made if _is_made_by(function) else ():
                t.fill_(float("nan") if t.is_floating_point() else 0)


def _is_made_by(function: Any) -> bool:
    """Whether the results of an operation are new memory."""
    return not any(result.alias_info for result in function._schema.returns)


class Capture(TorchDispatchMode):
    """Notes down the operations for a graph."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing\nmore lines")
        result = func(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        self.graph.operations.append((func, args, kwargs or {}, made))
        FakeCuda.counts["captured operations"] += 1
        return result


class Stream:
    """Stands for `torch.cuda.Stream`."""

    def wait_stream(self, other: Stream) -> None:
        FakeCuda.waits.append((self, other))


class FakeCuda:
    """What `recorded` uses of torch.cuda.

    Attributes:
        counts: captures, replays and captured operations so far.
        waits: pairs of streams, the first of which waited for the second.
        stream: the current one.
    """

    counts: ClassVar[Counter[str]] = Counter()
    waits: ClassVar[list[tuple[Stream, Stream]]] = []
    stream: ClassVar[Stream] = Stream()
    pools: ClassVar[dict[Any, list[Graph]]] = {}

    @staticmethod
    def graph_pool_handle() -> tuple[int, int]:
        return (0, len(FakeCuda.pools) + 1)

    @staticmethod
    def current_stream() -> Stream:
        return FakeCuda.stream

    @staticmethod
    def device(device: torch.device) -> Any:
        return contextlib.nullcontext()

    @staticmethod
    @contextlib.contextmanager
    def use(stream: Stream) -> Iterator[None]:
        before, FakeCuda.stream = FakeCuda.stream, stream
        try:
            yield
        finally:
            FakeCuda.stream = before

    @staticmethod
    @contextlib.contextmanager
    def graph(graph: Graph, pool: Any, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        FakeCuda.counts["captures"] += 1
        assert capture_error_mode == "thread_local"
        graph.graphs_of_pool = FakeCuda.pools.setdefault(pool, [])
        graph.graphs_of_pool.append(graph)
        try:
            with FakeCuda.use(stream), Capture(graph):
                yield
        except RuntimeError:
            # As torch does, which ends a capture that has failed and fails over that.
            raise RuntimeError("the capture was invalidated")  # noqa: B904
        graph.forget_values()


def are_on_cpu(tensors: Iterable[Tensor]) -> bool:
    """Stands for `recorded.on_gpu`."""
    return all(t.device.type == "cpu" for t in tensors)


def install(monkeypatch: Any) -> type[FakeCuda]:
    """Let tensors of the CPU count as a GPU's where functions are recorded."""
    FakeCuda.counts, FakeCuda.waits, FakeCuda.pools = Counter(), [], {}
    FakeCuda.stream = Stream()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    for name in ("graph_pool_handle", "current_stream", "device", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(FakeCuda, name))
    monkeypatch.setattr(torch.cuda, "stream", FakeCuda.use)
    for user in (recorded, compile, recorded_run):
        monkeypatch.setattr(user, "on_gpu", are_on_cpu)
    monkeypatch.setattr(recorded_run, "memory_of_gpu", lambda device: MEMORY)
    return FakeCuda
