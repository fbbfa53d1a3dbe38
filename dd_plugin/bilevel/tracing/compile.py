"""Compiling the functions of a problem: traced once as a whole graph, for all steps.

Beside `steps`, which calls it. `torch.compile` cannot take the double backward of a model, and
following a model's Python together with function transforms is where it is most fragile. Here a
function is first run once on tensors without data (`make_fx`), which leaves a flat graph of
tensor operations, transforms and all; the graph is cleaned (`passes`) and handed to the
compiler. Everything that changes from step to step, random numbers, step size and state included,
is an input of the graph, so nothing is compiled again. With ``compile="trace"`` the graph is run as
it is: no compiler is needed and it is ready in seconds, and for small networks most of what an
eager sweep spends is not arithmetic but transforms and tangents that are zero.
"""

from __future__ import annotations

import dis
import itertools
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule

from dd_plugin.bilevel.messages import INSIDE, level_of_caller
from dd_plugin.bilevel.step_values import leaves_of, rebuilt
from dd_plugin.bilevel.tracing.cache import damaged_entry, use_fresh_cache
from dd_plugin.bilevel.tracing.halves import split
from dd_plugin.bilevel.tracing.passes import clean
from dd_plugin.bilevel.tracing.products import multiply_by_onednn
from dd_plugin.bilevel.tracing.recorded import MemoryPool, Recorded, on_gpu
from dd_plugin.bilevel.tracing.simplify import simplify
from dd_plugin.bilevel.tracing.way import Compile, Way, laid_out
from dd_plugin.bilevel.tracing.writes import without_writes
from dd_plugin.private import known_inductor_options, make_fx_of_fakes, takes_a_list
from dd_plugin.text import first_line

# Tensors lie in memory as the problem says; the compiler would bring every convolution to
# channels_last and back. And inlining what is read in several places saves passes over activations,
# since a sweep is bound by memory traffic.
_CPU = {
    "layout_optimization": False,
    "realize_reads_threshold": 1000,
    "realize_opcount_threshold": 1000,
}


class Signature(NamedTuple):
    """The arguments of a function that was traced, without their values; it can be pickled.

    Attributes:
        arguments: their trees, with something small for the tensors.
        tensors: shape, dtype and device of each tensor.
    """

    arguments: Any
    tensors: Sequence[tuple[torch.Size, torch.dtype, torch.device]]

    def example(self) -> Any:
        """Return arguments of this kind; their tensors are zeros."""
        zeros = (torch.zeros(s, dtype=dtype, device=on) for s, dtype, on in self.tensors)
        return rebuilt(self.arguments, zeros)


class CompileWarning(UserWarning):
    """The compiler failed; the engine goes on without it."""


class Traced:
    """A function of trees of tensors as a flat graph of tensor operations.

    Args:
        function: pure; takes and returns trees of tensors (and None).
        args: what it is going to be called with; only shapes, dtypes and devices matter.
        way: whether the graph is for the compiler, or to be run as it is, and the memory layout.

    Attributes:
        graph: takes the list of all tensors in the arguments, `laid_out`, returns the list of those
            in the result.
        on_cuda: whether any argument is on a GPU.
        signature: the kind of arguments that it takes.
    """

    def __init__(self, function: Callable[..., Any], args: Any, way: Way) -> None:
        # Trees of the arguments and of the result, with something small for the tensors.
        self._arguments = rebuilt(args, itertools.repeat(0))
        self._result: Any = None
        self._is_tensor: list[bool] = []

        def of_list(tensors: list[Tensor]) -> list[Tensor]:
            out = function(*rebuilt(self._arguments, iter(tensors)))
            leaves = leaves_of(out)
            self._result = rebuilt(out, itertools.repeat(0))
            self._is_tensor = [isinstance(leaf, Tensor) for leaf in leaves]
            return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

        self._channels_last = way.channels_last
        self.inputs = self.laid_out([t.detach() for t in leaves_of(args)])
        self.on_cuda = any(on_gpu([t]) for t in self.inputs)
        kinds = [(t.shape, t.dtype, t.device) for t in self.inputs]
        self.signature = Signature(self._arguments, kinds)
        self.graph = clean(make_graph(of_list, self.inputs))
        if way.compile == "trace":
            multiply_by_onednn(self.graph)
            simplify(self.graph)

    def laid_out(self, leaves: Iterable[Tensor]) -> list[Tensor]:
        """The tensors of arguments as the graph takes them."""
        return [laid_out(t, self._channels_last) for t in leaves]

    def pack(self, tensors: Iterable[Tensor]) -> Any:
        """The function's result from the list that the graph returned."""
        following = iter(tensors)
        leaves = [next(following) if is_tensor else None for is_tensor in self._is_tensor]
        return rebuilt(self._result, iter(leaves))


def make_graph(function: Callable[[list[Tensor]], list[Tensor]], inputs: list[Tensor]) -> Any:
    """The operations of a function, found by running it on tensors without data.

    None of them writes into a tensor, as far as torch can do without: neither into an input, nor
    into anything that a pass over the graph may take for unchanging.
    """

    def trace(function: Callable[[list[Tensor]], list[Tensor]]) -> GraphModule:
        return make_fx_of_fakes(function)(inputs)

    graph = trace(function)
    _check_draws_nothing(graph)
    return without_writes(graph, trace)


def _check_draws_nothing(graph: GraphModule) -> None:
    """Check that a graph makes no random numbers: it would make others each time it is run.

    Raises:
        RuntimeError: it does; what `replay` knows by name comes as an input instead.
    """
    for node in graph.graph.nodes:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise RuntimeError(f"{node.target} draws random numbers that a trace cannot replay")


class TracedGraph:
    """A graph run as it is, operation by operation: no transforms, no zero tangents, no Python.

    On a GPU it is recorded and replayed, see `recorded`.
    """

    def __init__(self, graph: GraphModule, pool: MemoryPool | None = None) -> None:
        self._graph: Callable[..., Any] = graph.forward
        if takes_a_list(graph):
            # What `make_fx` writes takes its list apart by torch's slow trees: no list then.
            plain = Graph()
            plain.output(plain.graph_copy(graph.graph, {}))
            spread = GraphModule(graph, plain).forward
            self._graph = lambda tensors: spread(*tensors)
        if pool is not None:
            self._graph = Recorded(self._graph, pool)

    @torch.no_grad()
    def __call__(self, tensors: list[Tensor]) -> list[Tensor]:
        """The graph's results."""
        return self._graph(tensors)


class CompiledGraph:
    """A graph in the hands of the compiler, which runs at the first call.

    On a GPU its result is recorded and replayed, see `recorded`; the compiler's own recordings
    copy more, and refuse what has a random number of the host among its arguments.
    """

    def __init__(
        self, graph: Callable[[list[Tensor]], list[Tensor]], pool: MemoryPool | None = None
    ) -> None:
        self._graph, self._pool = graph, pool
        self._compiled = self._compile()
        self._run: Callable[[list[Tensor]], list[Tensor]] = self._call
        if pool is not None:
            self._run = Recorded(self._call, pool)
        self._first = True

    def _compile(self) -> Callable[[list[Tensor]], list[Tensor]]:
        options = None if self._pool is not None else known_inductor_options(_CPU)
        return torch.compile(self._graph, fullgraph=True, dynamic=False, options=options)

    def _call(self, tensors: list[Tensor]) -> list[Tensor]:
        return self._compiled(tensors)

    def __call__(self, tensors: list[Tensor]) -> list[Tensor]:
        """The graph's results."""
        if self._first:
            try:
                outputs = self._quietly(tensors)
            except Exception as error:
                damaged = damaged_entry(error)
                if damaged is None:
                    raise
                use_fresh_cache(damaged)
                self._compiled = self._compile()
                outputs = self._quietly(tensors)
            self._first = False
            return outputs
        return self._run(tensors)

    def _quietly(self, tensors: list[Tensor]) -> list[Tensor]:
        # The compiler's own imports and choices are not the user's to act on.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._run(tensors)


def runner(
    graph: GraphModule, on_cuda: bool, how: Compile, pool: MemoryPool | None
) -> TracedGraph | CompiledGraph:
    """What runs a graph in a way."""
    make = TracedGraph if how == "trace" else CompiledGraph
    return make(graph, (pool or MemoryPool()) if on_cuda else None)


class CompiledFunction:
    """A function of trees of tensors, compiled for the shapes of its first arguments.

    Args:
        function: as for `Traced`.
        args: as for `Traced`.
        way: as for `Traced`.
        pool: the memory of recordings on a GPU; by default one of its own.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        args: Any,
        way: Way = Way(True),  # noqa: B008 - it never changes
        pool: MemoryPool | None = None,
    ) -> None:
        self._traced = Traced(function, args, way)
        # Only their kind mattered; a batch of large images is not to be held on to.
        self._traced.inputs.clear()
        self.graph, self.signature = self._traced.graph, self._traced.signature
        self._run = runner(self.graph, self._traced.on_cuda, way.compile, pool)

    def __call__(self, *args: Any) -> Any:
        """The function's result for arguments of the same shapes."""
        return self.of_leaves(leaves_of(args))

    def of_leaves(self, leaves: Sequence[Tensor]) -> Any:
        """The same, of arguments that have been taken apart by `leaves_of`."""
        return self._traced.pack(self._run(self._traced.laid_out(leaves)))


class CompiledHalves:
    """A function ``(early..., late...) -> (first, second)`` run in two calls.

    Args:
        function: as for `Traced`; ``first`` must not depend on the late arguments.
        early: the arguments of the first call.
        late: the arguments that come with the second call only.
        way: as for `Traced`.
        pool: the memory of recordings on a GPU; by default one of its own.

    Attributes:
        graph: of both together.
        kept_bytes: what a first call leaves for its second.
        signature: the kind of arguments that the function takes.

    Raises:
        ValueError: the function cannot be cut so.
    """

    def __init__(
        self,
        function: Callable[..., tuple[Any, Any]],
        early: Sequence[Any],
        late: Sequence[Any],
        way: Way = Way(True),  # noqa: B008 - it never changes
        pool: MemoryPool | None = None,
    ) -> None:
        def parts(*args: Any) -> tuple[Any, Any]:
            first, second = function(*args)
            self._first_results = sum(isinstance(t, Tensor) for t in leaves_of(first))
            return first, second

        traced = Traced(parts, (*early, *late), way)
        graph = clean(make_graph(traced.graph, traced.inputs))
        early_inputs = len(leaves_of(tuple(early)))
        known = [position < early_inputs for position in range(len(traced.inputs))]
        traced.inputs.clear()
        halves = split(graph, known, self._first_results)
        if halves is None:
            raise ValueError("the function cannot be cut into two halves")
        self.graph, self.kept_bytes = graph, halves.kept_bytes
        self._traced, self.signature = traced, traced.signature
        self._run_first = runner(halves.first, traced.on_cuda, way.compile, pool)
        self._run_second = runner(halves.second, traced.on_cuda, way.compile, pool)

    def first(self, *early: Any) -> tuple[Any, list[Tensor]]:
        """``first``, and what is to be kept."""
        results = self._run_first(self._traced.laid_out(leaves_of(early)))
        early_results, kept = results[: self._first_results], results[self._first_results :]
        missing: list[Any] = [None] * (sum(self._traced._is_tensor) - len(early_results))
        return self._traced.pack([*early_results, *missing])[0], kept

    def second(self, kept: list[Tensor], *args: Any) -> Any:
        """``second``, from what was kept, early and late arguments; ``kept`` is emptied."""
        # What is kept lies as the first graph left it.
        tensors = [*kept, *self._traced.laid_out(leaves_of(args))]
        kept.clear()
        results = self._run_second(tensors)
        missing: list[Any] = [None] * self._first_results
        return self._traced.pack([*missing, *results])[1]


def is_not_of_the_compiler(error: BaseException) -> bool:
    """Whether an error while compiling or running a graph is the user's or the machine's.

    Out of memory, and what the code of a model or a loss raises by itself. An error that such code
    runs into (a branch on a tensor without data) is one of compiling; if it is not, eager execution
    runs into it again.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, (MemoryError, torch.OutOfMemoryError)):
            return True
        if isinstance(current, RuntimeError) and "can't allocate memory" in str(current):
            return True
        current = current.__cause__ or current.__context__
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    if code.co_filename.startswith(_NOT_THE_USERS) and "site-packages" not in code.co_filename:
        return False
    if code.co_filename.startswith((*INSIDE, "<")):
        return False
    raised = {
        i.offset for i in dis.get_instructions(code) if i.opname in ("RAISE_VARARGS", "RERAISE")
    }
    return trace.tb_lasti in raised


# The standard library raises for whoever calls it.
_NOT_THE_USERS = sysconfig.get_paths()["stdlib"]


def warn_of_failure(name: str, error: BaseException) -> None:
    """Say once that a problem goes on eagerly, and why."""
    try:
        warnings.warn(
            f"compiling the {name} of this problem failed ({type(error).__name__}: "
            f"{first_line(error)}); it runs eagerly from here on. Pass "
            "compile=False to run it so without this warning.",
            CompileWarning,
            stacklevel=level_of_caller(),
        )
    except CompileWarning as warning:  # where warnings are errors
        raise warning from error
