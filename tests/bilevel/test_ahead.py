"""`dd_plugin.bilevel.ahead`: what a traced run has called, compiled from a pickle of it."""

import pickle

import pytest
import torch

from dd_plugin.bilevel import (
    BilevelProblem,
    Device,
    adam,
    ahead,
    hypergradient,
    hypergradients,
    initial_state,
    sgd,
)
from dd_plugin.bilevel.ahead import Kept, compile_ahead, fingerprint, forget_others, run_as, work_of
from dd_plugin.bilevel.tracing import compile as compiling
from dd_plugin.bilevel.tracing.way import Way

COMPILED = Way(True)
STEPS = 2
NONE = Kept(0, STEPS, STEPS)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(6, 5)
        self.norm = torch.nn.BatchNorm1d(5)
        self.drop = torch.nn.Dropout(0.5)
        self.head = torch.nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.drop(torch.relu(self.norm(self.body(x.flatten(1))))))


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that went to the compiler, whose code is not made."""
    seen = []

    def compiled(self):
        seen.append((self._graph.code, sum(1 for n in self._graph.graph.nodes)))
        return self._graph

    monkeypatch.setattr(compiling.CompiledGraph, "_compile", compiled)
    return seen


def problem_of(**options):
    torch.manual_seed(0)
    return BilevelProblem(Net(), optimizer=adam(groups=str), verify=False, **options)


def run(problem, *, batched=False, activations=0, window=None):
    torch.manual_seed(1)
    batches = [(torch.randn(4, 6), torch.arange(4) % 3) for _ in range(STEPS)]
    outer = torch.randn(8, 6), torch.arange(8) % 3
    options = {"step_size": 0.1, "storage": Device(activations=activations)}
    if batched:
        starts = [initial_state(problem)] * 2
        return hypergradients(problem, batches, outer, starts, mode="batched", **options)
    return hypergradient(problem, batches, outer, **options)


@pytest.mark.parametrize("batched", [False, True])
def test_a_pickle_compiles_the_graphs_that_the_run_compiles(graphs, batched):
    traced = problem_of(compile="trace")
    run(traced, batched=batched)
    work = pickle.loads(pickle.dumps(work_of(traced, NONE)))
    for one in work:
        compile_ahead(one, adam(groups=str))
    elsewhere = sorted(graphs)
    graphs.clear()
    run_as(traced, COMPILED)
    run(traced, batched=batched)
    assert sorted(graphs) == elsewhere != []


def test_with_all_activations_kept_no_step_is_compiled_twice(graphs):
    traced = problem_of(compile="trace")
    run(traced)
    (work,) = pickle.loads(pickle.dumps(work_of(traced, Kept(1 << 30, STEPS, STEPS))))
    compile_ahead(work, adam(groups=str))
    elsewhere = set(graphs)
    graphs.clear()
    run_as(traced, COMPILED)
    run(traced, activations=1 << 30)
    assert set(graphs) == elsewhere != set()


@pytest.mark.parametrize(("memory", "window"), [(1, STEPS), (1 << 30, STEPS - 1)])
def test_where_steps_are_left_they_are_compiled_too(graphs, memory, window):
    traced = problem_of(compile="trace")
    run(traced)
    (work,) = work_of(traced, Kept(memory, window, STEPS))
    compile_ahead(work, adam(groups=str))
    # Two halves beside everything; no sweep where all is kept.
    assert len(graphs) == len(work.functions) + 2 - (1 if memory > 1 else 0)


def test_ways_are_switched_and_forgotten(graphs):
    traced = problem_of(compile="trace")
    run(traced, batched=True)
    run_as(traced, COMPILED)
    run(traced, batched=True)
    assert graphs
    (batched,) = [p for p in traced.compiled.values() if isinstance(p, BilevelProblem)]
    assert {key[1] for key in batched.compiled} == {Way("trace"), COMPILED}
    forget_others(traced)
    assert {key[1] for key in batched.compiled} == {COMPILED}
    assert not ahead.has_failed(traced, COMPILED)
    batched.runs_eagerly.add(COMPILED)
    assert ahead.has_failed(traced, COMPILED)


def test_the_fingerprint_is_that_of_the_work():
    prints = []
    for number in range(3):
        problem = problem_of(compile="trace")
        if number == 2:
            problem.optimizer = sgd(groups=str)
        run(problem)
        prints.append(fingerprint(problem))
        assert ahead.traced_operations(problem) > 50
    assert prints[0] == prints[1] != prints[2]
