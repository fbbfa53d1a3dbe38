import pytest
import torch
from torch import nn

from dd_plugin.bilevel import BilevelProblem, adam, hypergradient, sgd
from dd_plugin.bilevel.compile import CompiledFunction, CompileWarning
from dd_plugin.bn import convert_bn
from tests.bilevel.problems import convnet, hard_batch, soft_batches, worst_error


@pytest.mark.parametrize(
    ("optimizer", "policy"), [(sgd(0.9), None), (adam(), ("tracked", "batch"))]
)
def test_compiled_equals_the_whole_graph_and_compiles_once(optimizer, policy):
    model = convnet(width=2, dropout=0.4, blocks=1)
    if policy is not None:
        convert_bn(model, *policy)
    problem = BilevelProblem(model, optimizer=optimizer, compile=True)
    batches, outer = soft_batches(3), hard_batch()
    compiled = None
    for seed, step_size in ((0, 0.1), (1, torch.rand(3, dtype=torch.float64) * 0.1)):
        options = {"step_size": step_size, "seed": seed}
        result = hypergradient(problem, batches, outer, **options)
        problem.compile = False
        oracle = hypergradient(problem, batches, outer, method="autograd", **options)
        problem.compile = True
        assert worst_error(result, oracle)[0] < 1e-9
        compiled = compiled or dict(problem.compiled)
    # Nothing was traced again for another seed, step size or step, nor compiled again.
    assert problem.compiled == compiled
    assert sorted(key[0] for key in compiled) == ["gradient", "outer", "pull", "sweep", "update"]


class _Branching(nn.Module):
    def forward(self, x):
        return x * 2 if float(x.detach().mean()) > 0 else x


def test_what_cannot_be_compiled_runs_eagerly_with_one_warning():
    model = nn.Sequential(*convnet(blocks=1), _Branching())
    problem = BilevelProblem(model, compile=True)
    batches, outer = soft_batches(2), hard_batch()
    with pytest.warns(CompileWarning, match="runs eagerly from here on") as caught:
        result = hypergradient(problem, batches, outer, step_size=0.1)
    assert len(caught) == 1
    oracle = hypergradient(problem, batches, outer, step_size=0.1, method="autograd")
    assert worst_error(result, oracle)[0] < 1e-9


def test_trees_go_in_and_out(monkeypatch):
    # The compiler is left out: this is about tracing and the shape of what comes back.
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)

    def function(tree, list_of):
        return {"sum": tree["a"] + list_of[0], "none": None, "pair": (tree["b"], tree["a"] * 2)}

    args = ({"a": torch.ones(2), "b": torch.zeros(3)}, [torch.full((2,), 5.0)])
    found = CompiledFunction(function, args)(*args)
    assert torch.equal(found["sum"], torch.full((2,), 6.0))
    assert found["none"] is None
    assert torch.equal(found["pair"][1], torch.full((2,), 2.0))
