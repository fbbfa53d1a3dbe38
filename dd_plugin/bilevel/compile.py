"""Compiling the functions of a problem: traced once as a whole graph, for all steps.

Beside `steps`, which calls it. `torch.compile` cannot take the double backward of a model, and
following a model's Python together with function transforms is where it is most fragile. Here a
function is first run once on tensors without data (`make_fx`), which leaves a flat graph of
tensor operations, transforms and all; the graph is cleaned (`graph_passes`) and handed to the
compiler. Everything that changes from step to step, random numbers, step size and state included,
is an input of the graph, so nothing is compiled again.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from dd_plugin.bilevel.graph_passes import clean

# The sweep is bound by memory traffic. In the plain layout the reductions of normalisation layers
# run through contiguous memory, which channels_last, the compiler's own choice, does not give
# them; and inlining what is read in several places saves passes over activations.
_CPU = {
    "layout_optimization": False,
    "realize_reads_threshold": 1000,
    "realize_opcount_threshold": 1000,
}


class CompileWarning(UserWarning):
    """The compiler failed; the engine goes on without it."""


class CompiledFunction:
    """A function of trees of tensors, compiled for the shapes of its first arguments.

    Args:
        function: pure; takes and returns trees of tensors (and None).
        args: what it is going to be called with; only shapes, dtypes and devices matter.

    Attributes:
        seconds: how long tracing took; the compiler itself runs at the first call.
    """

    def __init__(self, function: Callable[..., Any], args: Any) -> None:
        began = time.perf_counter()
        flat, self._in_spec = pytree.tree_flatten(args)
        self._out_spec: Any = None
        self._is_tensor: list[bool] = []

        def of_list(tensors: list[Tensor]) -> list[Tensor]:
            out = function(*pytree.tree_unflatten(tensors, self._in_spec))
            leaves, self._out_spec = pytree.tree_flatten(out)
            self._is_tensor = [isinstance(leaf, Tensor) for leaf in leaves]
            return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

        inputs = [t.detach().contiguous() for t in flat]
        self._key = [(t.shape, t.dtype, t.device) for t in inputs]
        graph = make_fx(of_list, tracing_mode="fake", _allow_non_fake_inputs=True)(inputs)
        self.graph = clean(graph)
        self._cuda = any(t.is_cuda for t in inputs)
        # Small inner batches on a GPU are bound by launches: replay them as one CUDA graph.
        how: dict[str, Any] = {"mode": "reduce-overhead"} if self._cuda else {"options": _CPU}
        self._compiled = torch.compile(self.graph, fullgraph=True, dynamic=False, **how)
        self._first = True
        self.seconds = time.perf_counter() - began

    def __call__(self, *args: Any) -> Any:
        """The function's result for arguments of the same shapes."""
        inputs = [t.contiguous() for t in pytree.tree_leaves(args)]
        if self._cuda:
            torch.compiler.cudagraph_mark_step_begin()
        if self._first:
            # The compiler's own imports and choices are not the user's to act on.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outputs = self._compiled(inputs)
            self._first = False
        else:
            outputs = self._compiled(inputs)
        if self._cuda:
            # The next replay writes into the same memory.
            outputs = [t.clone() for t in outputs]
        found = iter(outputs)
        leaves = [next(found) if is_tensor else None for is_tensor in self._is_tensor]
        return pytree.tree_unflatten(leaves, self._out_spec)


def warn_of_failure(name: str, error: BaseException) -> None:
    """Say once that a problem goes on eagerly, and why."""
    reason = str(error).strip().splitlines()
    warnings.warn(
        f"compiling the {name} of this problem failed ({type(error).__name__}: "
        f"{reason[0] if reason else 'no message'}); it runs eagerly from here on. Pass "
        "compile=False to run it so without this warning.",
        CompileWarning,
        stacklevel=5,
    )
