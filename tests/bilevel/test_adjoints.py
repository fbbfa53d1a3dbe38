"""The methods by name and as objects, and an operation that has no forward rule."""

import pytest
import torch
from torch import nn

from dd_plugin.bilevel import BilevelProblem, MissingRuleWarning, hypergradient, sgd
from dd_plugin.bilevel.adjoints import DoubleBackward, ForwardOverReverse, WholeGraph
from tests.bilevel.problems import convnet, hard_batch, soft_batches, worst_error


def test_a_name_stands_for_its_object():
    batches, outer = soft_batches(3), hard_batch()
    problem = BilevelProblem(convnet(width=2), optimizer=sgd(0.9))
    for method in (ForwardOverReverse(), DoubleBackward(), WholeGraph()):
        options = {"step_size": 0.1, "seed": 1}
        one = hypergradient(problem, batches, outer, method=method.name, **options)
        other = hypergradient(problem, batches, outer, method=method, **options)
        assert one.method == other.method == method.name
        assert worst_error(one, other)[0] == 0


@pytest.mark.parametrize("method", ["forward", DoubleBackward, None, ["mixed"]])
def test_what_is_no_method_is_refused(method):
    with pytest.raises(ValueError, match='`method` must be "mixed", "reverse" or "autograd", got'):
        hypergradient(convnet(width=2), soft_batches(1), hard_batch(), step_size=1, method=method)


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g


class _WithoutForwardRule(nn.Module):
    def forward(self, x):
        return _Doubled.apply(x)


def test_an_operation_without_a_forward_rule_is_named_and_handled():
    model = nn.Sequential(*convnet(), _WithoutForwardRule())
    batches, outer = soft_batches(2), hard_batch()
    with pytest.warns(
        MissingRuleWarning, match=r"autograd.Function has no forward-mode rule"
    ) as caught:
        result = hypergradient(model, batches, outer, step_size=0.1)
    assert caught[0].filename == __file__
    oracle = hypergradient(model, batches, outer, step_size=0.1, method="autograd")
    assert result.method == "reverse"
    assert worst_error(result, oracle)[0] < 1e-9


class _ZeroTangent(torch.autograd.Function):
    """Fails as torch's own rules do that write into a tangent which is zero."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g

    @staticmethod
    def jvp(ctx, t):
        return torch._efficientzerotensor(t.shape, dtype=t.dtype).add_(t)


def test_a_forward_rule_that_writes_into_a_zero_is_a_missing_one():
    class Layer(nn.Module):
        def forward(self, x):
            return _ZeroTangent.apply(x)

    model = nn.Sequential(*convnet(), Layer())
    batches, outer = soft_batches(2), hard_batch()
    with pytest.warns(MissingRuleWarning, match="an operation that torch does not name has no"):
        result = hypergradient(model, batches, outer, step_size=0.1)
    oracle = hypergradient(model, batches, outer, step_size=0.1, method="autograd")
    assert result.method == "reverse"
    assert worst_error(result, oracle)[0] < 1e-9
