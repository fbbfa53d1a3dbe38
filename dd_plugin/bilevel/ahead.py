"""A traced problem that is to be compiled later: what to compile, and how to do so elsewhere.

Beside `steps`, which fills `BilevelProblem.compiled`. Everything that a traced run has called is
there, so the same functions can be compiled before a run calls them compiled. In another process
this fills the compiler's cache on disk.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from dd_plugin.bilevel.optimizers import Optimizer
from dd_plugin.bilevel.problem import BilevelProblem, Loss, cross_entropy
from dd_plugin.bilevel.tracing.compile import CompiledFunction, CompiledHalves, Signature
from dd_plugin.bilevel.tracing.way import Way


class Kept(NamedTuple):
    """The activations that compiled runs are going to keep.

    Attributes:
        memory: bytes for them.
        window: inner steps that are differentiated.
        steps: inner steps.
    """

    memory: int
    window: int
    steps: int


class Work(NamedTuple):
    """Functions of a problem to be compiled; it can be pickled.

    Attributes:
        problem: a copy without optimizer and without anything compiled.
        functions: their names and arguments.
        kept: the activations that a run keeps.
    """

    problem: BilevelProblem
    functions: list[tuple[str, Signature]]
    kept: Kept


def run_as(problem: BilevelProblem, way: Way) -> None:
    """Let a problem run its functions in another way from the next hypergradient on."""
    for each in _with_batched(problem):
        each.compile, each.channels_last = way


def forget_others(problem: BilevelProblem) -> None:
    """Drop the functions and recordings that a problem has made for another way than its own."""
    for each in _with_batched(problem):
        for key in [key for key in _functions_of(each) if key[1] != each.way]:
            del each.compiled[key]
        recordings = each.recordings.by_kind
        for key in [key for key in recordings if key[0] != each.way]:
            del recordings[key]


def has_failed(problem: BilevelProblem, way: Way) -> bool:
    """Return whether the functions of a problem could not be made for a way of running them."""
    return any(way in each.runs_eagerly for each in _with_batched(problem))


def traced_operations(problem: BilevelProblem) -> int:
    """Return the number of operations in the functions that a problem has traced.

    Where activations are kept, the halves of a step stand for the whole.
    """
    total = 0
    for each in _with_batched(problem):
        traced = _traced(each)
        is_cut = any(key[0] == "halves" for key in traced)
        whole = ("gradient", "sweep") if is_cut else ()
        total += sum(len(f.graph.graph.nodes) for key, f in traced.items() if key[0] not in whole)
    return total


def fingerprint(problem: BilevelProblem) -> str:
    """Return a checksum of the functions that a problem has traced, and of their arguments."""
    digest = hashlib.sha256()
    for each in _with_batched(problem):
        for key, function in sorted(_traced(each).items(), key=str):
            digest.update(f"{key}{function.signature.tensors}".encode())
            digest.update(function.graph.code.encode())
    return digest.hexdigest()


def work_of(problem: BilevelProblem, kept: Kept) -> list[Work]:
    """Return what a traced problem has called. It must have the losses that problems have."""
    works = []
    for each in _with_batched(problem):
        functions = [(key[0], function.signature) for key, function in _traced(each).items()]
        works.append(Work(_bare(each), functions, kept))
    return works


def compile_ahead(work: Work, optimizer: Optimizer) -> None:
    """Compile functions, by calling each of them once on zeros.

    Raises:
        Exception: the compiler's, or torch's if memory runs out.
    """
    problem = work.problem
    problem.optimizer, problem.compile = optimizer, True
    left_out: set[str] = {"halves"}
    with problem.model.ready(), torch.no_grad():
        steps = {str(s.tensors): s for name, s in work.functions if name in ("sweep", "halves")}
        if work.kept.memory and steps:
            each = max(_call_halves(problem, step.example()) for step in steps.values())
            if each * work.kept.window <= work.kept.memory:
                # All activations are kept, so no step is computed twice.
                left_out.add("sweep")
                if work.kept.window == work.kept.steps:
                    left_out.add("gradient")
        for name, signature in work.functions:
            if name not in left_out:
                args, pool = signature.example(), problem.memory_pool
                CompiledFunction(getattr(problem, name), args, problem.way, pool)(*args)


def _call_halves(problem: BilevelProblem, args: tuple[Any, ...]) -> float:
    """Compile the two halves of a step; returns the bytes between them, infinite if it has none."""
    early, late = args[:1], args[1:]
    try:
        halves = CompiledHalves(
            problem.gradient_and_sweep, early, late, way=problem.way, pool=problem.memory_pool
        )
    except ValueError:
        return math.inf
    _, kept = halves.first(*early)
    halves.second(kept, *args)
    return halves.kept_bytes


def _with_batched(problem: BilevelProblem) -> Iterator[BilevelProblem]:
    """Yield a problem and those of several networks at once, which `ensembles` keeps in it."""
    yield problem
    for part in problem.compiled.values():
        if isinstance(part, BilevelProblem):
            yield part


def _functions_of(problem: BilevelProblem) -> dict[Any, CompiledFunction | CompiledHalves | None]:
    return {k: f for k, f in problem.compiled.items() if not isinstance(f, BilevelProblem)}


def _traced(problem: BilevelProblem) -> dict[Any, CompiledFunction | CompiledHalves]:
    """Return what a problem has traced, in the memory layout that it has now."""
    way = Way("trace", problem.channels_last)
    functions = _functions_of(problem).items()
    return {key: made for key, made in functions if key[1] == way and made is not None}


def _bare(problem: BilevelProblem) -> BilevelProblem:
    """Return a copy with what a pickle can hold; an optimizer has functions of functions."""
    bare = copy.copy(problem)
    default: Loss = cross_entropy
    bare.inner_loss = bare.outer_loss = default
    bare.compiled, bare.verified = {}, set()
    del bare.optimizer
    return bare
