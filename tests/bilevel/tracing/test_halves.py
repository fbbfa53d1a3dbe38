"""A graph cut in two: what is kept for the second half, and what is computed again."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from dd_plugin.bilevel import BilevelProblem, Device, adam, hypergradient
from dd_plugin.bilevel.tracing.halves import split
from dd_plugin.bn import convert_bn
from tests.bilevel.problems import convnet, hard_batch, soft_batches, worst_error


def _traced(function, *inputs):
    return make_fx(lambda tensors: function(*tensors), tracing_mode="fake")(list(inputs))


def test_costly_results_are_kept_and_cheap_ones_computed_again():
    x, w, late = torch.randn(3, 4), torch.randn(4, 5), torch.randn(3, 5)

    def function(x, w, late):
        product = x @ w
        active = product.relu().exp()
        return active.sum(), active * late

    halves = split(_traced(function, x, w, late), [True, True, False], 1)
    first, product = halves.first([x, w])
    assert torch.equal(product, x @ w)  # not the relu or the exponential of it
    assert halves.kept_bytes == 3 * 5 * 4
    assert torch.equal(first, function(x, w, late)[0])
    (second,) = halves.second([product, x, w, late])
    assert torch.equal(second, function(x, w, late)[1])


def test_of_an_operation_with_several_results_the_used_ones_are_kept():
    x, late = torch.randn(3, 4), torch.randn(3)

    def function(x, late):
        variance, mean = torch.var_mean(x, 1)
        return mean, variance * late

    halves = split(_traced(function, x, late), [True, False], 1)
    _, variance = halves.first([x])
    assert torch.equal(variance, x.var(1))
    assert torch.equal(halves.second([variance, x, late])[0], x.var(1) * late)


def test_what_cannot_be_cut_is_left_whole():
    x, late = torch.randn(3), torch.randn(3)
    # The first result depends on what is not known yet.
    assert split(_traced(lambda x, y: (x + y, x * y), x, late), [True, False], 1) is None
    # An operation in place.
    in_place = _traced(lambda x, y: (x.exp().add_(1.0), x * y), x, late)
    assert split(in_place, [True, False], 1) is None


@pytest.mark.parametrize("how", ["trace", pytest.param(True, marks=pytest.mark.slow)])
def test_kept_activations_change_nothing_but_memory(how):
    model = convert_bn(convnet(width=2, dropout=0.4, blocks=1), "tracked")
    problem = BilevelProblem(model, optimizer=adam(), compile=how)
    batches, outer = soft_batches(4), hard_batch()
    options = {"step_size": 0.1, "seed": 3}
    plain = hypergradient(problem, batches, outer, **options)
    everything = hypergradient(
        problem, batches, outer, storage=Device(activations=1 << 30), **options
    )
    each = problem.compiled[next(k for k in problem.compiled if k[0] == "halves")].kept_bytes
    assert everything.trajectory_bytes == plain.trajectory_bytes + 4 * each
    two = Device(activations=2 * each + each // 2)
    some = hypergradient(problem, batches, outer, storage=two, **options)
    assert some.trajectory_bytes == plain.trajectory_bytes + 2 * each
    assert problem.compiling == how
    problem.compile = False
    oracle = hypergradient(problem, batches, outer, method="autograd", **options)
    assert worst_error(everything, oracle)[0] < 1e-9
    assert worst_error(some, oracle)[0] < 1e-9


def test_an_eager_problem_keeps_nothing():
    problem = BilevelProblem(convnet(blocks=1))
    batches, outer = soft_batches(2), hard_batch()
    plain = hypergradient(problem, batches, outer, step_size=0.1)
    kept = hypergradient(
        problem, batches, outer, step_size=0.1, storage=Device(activations=1 << 30)
    )
    assert kept.trajectory_bytes == plain.trajectory_bytes
    assert worst_error(kept, plain)[0] == 0.0
