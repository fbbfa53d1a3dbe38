"""What is computed without gradient is constant for the sweep as well."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dd_plugin.bilevel import (
    BilevelProblem,
    MissingRuleWarning,
    hypergradient,
    hypergradients,
    initial_state,
    sgd,
)
from dd_plugin.bilevel.foreign_models import no_grad
from tests.bilevel.problems import relative_error, soft_batches, worst_error


def _entropies(logits, labels):
    return -(labels * F.log_softmax(logits, 1)).sum(1)


def under_context(values):
    with torch.no_grad():
        return 1 - torch.exp(-values)


@torch.no_grad()
def decorated(values):
    return 1 - torch.exp(-values)


def switched_off(values):
    with torch.set_grad_enabled(False):
        return 1 - torch.exp(-values)


def switched_by_calls(values):
    torch.set_grad_enabled(False)
    weight = 1 - torch.exp(-values)
    torch.set_grad_enabled(True)
    return weight


def data(values):
    return 1 - torch.exp(-values.data)


def detached(values):
    return 1 - torch.exp(-values.detach())


def detached_in_place(values):
    return 1 - torch.exp(-(values * 1).detach_())


def inference(values):
    with torch.inference_mode():
        weight = 1 - torch.exp(-values)
    return weight.clone()


def enabled_inside(values):
    with torch.no_grad():
        first = torch.exp(-values)
        with torch.enable_grad():
            second = torch.exp(-2 * values)
        third = torch.exp(-3 * values)
    return first + second * third


def raised_inside(values):
    try:
        with torch.no_grad():
            raise KeyError
    except KeyError:
        return torch.exp(-values) + under_context(values)


def generated(values):
    @torch.no_grad()
    def weights():
        yield torch.exp(-values)
        yield torch.exp(-2 * values)

    first, second = weights()
    return first + second


def changed_in_place(values):
    weight = values * 2
    with torch.no_grad():
        weight.mul_(3.0).add_(values)
    return weight


def data_changed_in_place(values):
    weight = values * 2
    weight.data.mul_(3.0)
    return weight


class _Square(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, slope):
        return 2 * ctx.saved_tensors[0] * slope

    @staticmethod
    def jvp(ctx, tangent):
        return 2 * ctx.saved_tensors[0] * tangent


def custom_function(values):
    with torch.no_grad():
        weight = _Square.apply(values)
    # After it, everything is as before.
    return weight * _Square.apply(values)


class _HalfConstant(_Square):
    """Its backward has a part without gradient."""

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        with torch.no_grad():
            constant = x + 0
        return (x + constant) * slope


def constant_in_backward(values):
    return _HalfConstant.apply(values)


def own_gradient(values):
    slope = torch.func.grad(lambda v: (v**3).sum())
    with torch.no_grad():
        constant = slope(values)
    return constant * slope(values)


def constant_in_own_gradient(values):
    return torch.func.grad(lambda v: (under_context(v) * v**2).sum())(values)


def vectorized(values):
    return torch.func.vmap(lambda v: under_context(v) * v)(values)


WAYS = [
    under_context,
    decorated,
    switched_off,
    switched_by_calls,
    data,
    detached,
    detached_in_place,
    inference,
    enabled_inside,
    raised_inside,
    generated,
    changed_in_place,
    data_changed_in_place,
    custom_function,
    constant_in_backward,
    own_gradient,
    constant_in_own_gradient,
    vectorized,
]


def weighted(*ways):
    """A loss whose terms are weighted with what each way makes of them."""

    def loss(logits, labels):
        values = _entropies(logits, labels)
        return sum((way(values) * values).mean() for way in ways)

    return loss


class Gate(nn.Module):
    """A layer whose gate is made without gradient, in a way."""

    def __init__(self, way):
        super().__init__()
        self.way = way

    def forward(self, x):
        return x * self.way(0.3 * x.square())


def network(*gates):
    return nn.Sequential(nn.Linear(4, 5), *gates, nn.Linear(5, 3)).double()


@pytest.fixture
def data_of_a_run():
    return soft_batches(3, shape=(4,)), soft_batches(1, shape=(4,))[0]


def compared(problem, batches, outer, **options):
    """The worst error of a run against the whole graph."""
    result = hypergradient(problem, batches, outer, step_size=0.4, **options)
    assert result.method == options.get("method", "mixed")
    how, problem.compile = problem.compile, False
    oracle = hypergradient(problem, batches, outer, step_size=0.4, method="autograd")
    problem.compile = how
    return worst_error(result, oracle)[0]


def everywhere(*ways, **options):
    """A problem with parts without gradient in its model and in both of its losses."""
    loss = weighted(*ways)
    model = network(nn.Tanh(), *map(Gate, ways), nn.BatchNorm1d(5))
    return BilevelProblem(model, optimizer=sgd(0.9), inner_loss=loss, outer_loss=loss, **options)


@pytest.mark.parametrize("way", WAYS)
def test_parts_without_gradient_are_constants(way, data_of_a_run):
    problem = everywhere(way)
    assert compared(problem, *data_of_a_run) < 1e-9
    assert compared(problem, *data_of_a_run, method="reverse") < 1e-9


# Three in one trace: which of them is wrong the test above says.
@pytest.mark.parametrize("ways", [WAYS[i : i + 3] for i in range(0, len(WAYS), 3)])
def test_they_are_constants_of_a_trace(ways, data_of_a_run):
    problem = everywhere(*ways, compile="trace")
    # What a trace has spoilt shows in the call after.
    for _ in range(2):
        assert compared(problem, *data_of_a_run) < 1e-9
    assert problem.compiling == "trace"


@pytest.mark.parametrize("way", WAYS)
def test_several_networks_at_once(way, data_of_a_run):
    problem = BilevelProblem(network(Gate(way)), inner_loss=weighted(way))
    networks = [initial_state(problem, network(Gate(way))) for _ in range(2)]
    batched = hypergradients(problem, *data_of_a_run, networks, mode="batched", step_size=0.4)
    one_by_one = hypergradients(problem, *data_of_a_run, networks, step_size=0.4, method="autograd")
    assert relative_error(batched.parameters, one_by_one.parameters) < 1e-9
    for step, bar in batched.mean.batches.items():
        assert relative_error(bar.images, one_by_one.mean.batches[step].images) < 1e-9


@pytest.mark.slow
def test_compiled(data_of_a_run):
    problem = BilevelProblem(
        network(Gate(under_context)), inner_loss=weighted(decorated), compile=True
    )
    assert compared(problem, *data_of_a_run) < 1e-9
    assert problem.compiling is True


def test_inside_of_no_grad_and_in_every_mode_afterwards(data_of_a_run):
    problem = BilevelProblem(network(Gate(under_context)), inner_loss=weighted(enabled_inside))
    with torch.no_grad():
        assert compared(problem, *data_of_a_run) < 1e-9
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    with torch.autograd.forward_ad.dual_level():
        x = torch.autograd.forward_ad.make_dual(torch.ones(2), torch.ones(2))
        with torch.no_grad():
            y = x * 2
        # Outside of the engine `no_grad` means what it means in torch.
        assert torch.equal(torch.autograd.forward_ad.unpack_dual(y).tangent, torch.full((2,), 2.0))
    assert "data" not in vars(torch.Tensor)


def test_an_error_in_the_loss_leaves_nothing_behind(data_of_a_run):
    calls = []

    def loss(logits, labels):
        with torch.no_grad():
            calls.append(logits)
            if len(calls) > 3:  # in the sweep
                raise KeyError("loss")
            return logits.sum() * 0 + logits.sum()

    def tried(logits, labels):
        return loss(logits, labels) + logits.mean()

    before = {name: getattr(torch._C, name) for name in ("_set_grad_enabled",)}
    problem = BilevelProblem(network(), inner_loss=tried)
    with pytest.raises(KeyError):
        hypergradient(problem, *data_of_a_run, step_size=0.1)
    assert torch._C._is_fwd_grad_enabled()
    assert torch.is_grad_enabled()
    assert {name: getattr(torch._C, name) for name in before} == before


class _Once(_Square):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return 2 * ctx.saved_tensors[0] * slope


def test_a_function_without_second_derivative_is_an_error(data_of_a_run):
    # torch leaves its second derivative out of a double backward, without a word.
    problem = BilevelProblem(network(Gate(_Once.apply)))
    with pytest.raises(RuntimeError, match="has no second derivative in torch"):
        hypergradient(problem, *data_of_a_run, step_size=0.1, method="reverse")
    with (
        pytest.warns(MissingRuleWarning),
        pytest.raises(RuntimeError, match="has no second derivative in torch"),
    ):
        hypergradient(problem, *data_of_a_run, step_size=0.1)


def test_where_forward_mode_cannot_be_switched_the_sweep_is_in_reverse(monkeypatch, data_of_a_run):
    monkeypatch.setattr(no_grad, "RESPECTED", False)
    problem = BilevelProblem(network(Gate(under_context)))
    with pytest.warns(MissingRuleWarning, match="`no_grad`"):
        result = hypergradient(problem, *data_of_a_run, step_size=0.4)
    assert result.method == "reverse"
    oracle = hypergradient(problem, *data_of_a_run, step_size=0.4, method="autograd")
    assert worst_error(result, oracle)[0] < 1e-9


def by_numpy(values):
    return torch.from_numpy(1 - np.exp(-values.detach().numpy()))


def by_assignment(values):
    weight = values * 2
    weight.data = values.data * 3
    return weight


@pytest.mark.parametrize(
    ("way", "said"), [(by_numpy, r"\.numpy"), (by_assignment, r"assignment to `\.data`")]
)
def test_what_no_transform_allows_is_differentiated_in_reverse(way, said, data_of_a_run):
    problem = BilevelProblem(network(Gate(way)), inner_loss=weighted(way))
    with pytest.warns(MissingRuleWarning, match=said):
        result = hypergradient(problem, *data_of_a_run, step_size=0.4)
    oracle = hypergradient(problem, *data_of_a_run, step_size=0.4, method="autograd")
    assert worst_error(result, oracle)[0] < 1e-9
