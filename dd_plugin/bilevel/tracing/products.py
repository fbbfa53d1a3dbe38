"""Matrix products of a traced graph by oneDNN, where its kernels are the faster ones.

Used by `compile` between `passes` and `simplify`, for graphs that are run as they are: the compiler
takes this operation for weights that never change only. For float32 on a CPU torch takes products
from MKL, which on processors of AMD does without AVX-512; oneDNN, from which torch has its
convolutions, asks what the processor can do and not who made it. There larger products take half
the time, in any order of their factors in memory (``tests/benchmarks/products.py``). A
hypergradient of a ViT consists of such products for three quarters of its time.

The choice follows from the processor alone, not from a clock: every process of a run takes the
same, and a run that is resumed goes on to the bit.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from dd_plugin.bilevel.tracing.nodes import call_node
from dd_plugin.private import ONEDNN_LINEAR

aten = torch.ops.aten

# Multiplications from which on oneDNN's call, some 10 microseconds, is not what a product costs.
# What is almost a vector takes no longer by MKL.
_WORTH_IT = 1 << 20
_LEAST_SIDE = 8


def multiply_by_onednn(graph_module: GraphModule) -> None:
    """Let oneDNN compute the larger products of a graph, in place, if `onednn_is_faster`."""
    if not onednn_is_faster():
        return
    graph = graph_module.graph
    for node in list(graph.nodes):
        factors = _factors(node)
        if factors is None or not all(_is_matrix(factor) for factor in factors[:2]):
            continue
        first, second, bias = factors
        sides = (*first.meta["val"].shape, second.meta["val"].shape[1])
        if math.prod(sides) < _WORTH_IT or min(sides) < _LEAST_SIDE:
            continue
        with graph.inserting_before(node):
            weight, added = _as_weight(second), _as_bias(bias)
            product = call_node(graph, ONEDNN_LINEAR, first, weight, added, "none", [], "")
        node.replace_all_uses_with(product)
        graph.erase_node(node)
    graph.eliminate_dead_code()
    graph_module.recompile()


@functools.cache
def onednn_is_faster() -> bool:
    """Whether this machine's processor is one on which oneDNN multiplies faster than MKL."""
    if ONEDNN_LINEAR is None or not torch.backends.mkldnn.is_available():
        return False
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return wide and torch.backends.mkl.is_available() and _maker() == "AuthenticAMD"


def _maker() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    makers = (line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id"))
    return next(makers, None)


def _factors(node: Node) -> tuple[Any, Any, Any] | None:
    """The factors of a product, and what is added to each of its rows; None of anything else."""
    if node.kwargs:
        return None
    if node.target is aten.mm.default:
        first, second = node.args
        return first, second, None
    if node.target is aten.addmm.default:
        bias: Any
        bias, first, second = node.args
        if not _is_matrix(bias, dimensions=1):
            return None
        # A single number is added to every column; oneDNN refuses that.
        is_row = bias.meta["val"].shape == node.meta["val"].shape[1:]
        return (first, second, bias) if is_row else None
    return None


def _is_matrix(value: Any, dimensions: int = 2) -> bool:
    """Whether a value is float32 on a CPU, with that many dimensions and none of them empty."""
    if not isinstance(value, Node):
        return False
    tensor = value.meta.get("val")
    if not isinstance(tensor, Tensor) or tensor.dim() != dimensions or not tensor.numel():
        return False
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu"


def _as_weight(second: Node) -> Node:
    """The transpose of a factor; factors that are transposes of each other share what they need."""
    if second.target is aten.t.default and isinstance(second.args[0], Node):
        return _without_gaps(second.args[0])
    return call_node(second.graph, aten.t.default, _without_gaps(second))


def _as_bias(bias: Node | None) -> Node | None:
    """The same in memory without gaps: oneDNN does not look at strides, and reads on."""
    if bias is None or bias.meta["val"].stride() == (1,):
        return bias
    return call_node(bias.graph, aten.clone.default, bias, memory_format=torch.contiguous_format)


def _without_gaps(node: Node) -> Node:
    """The same matrix, in memory that it fills row by row or column by column.

    As a weight oneDNN multiplies others a thousand times as slowly; MKL is given a copy of them.
    """
    rows, columns = node.meta["val"].shape
    if node.meta["val"].stride() in ((columns, 1), (1, rows)):
        return node
    return call_node(node.graph, aten.clone.default, node, memory_format=torch.contiguous_format)
