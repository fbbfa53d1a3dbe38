"""Random operations: written in place, and those that the engine does not know by name."""

import warnings

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn import functional as F

from dd_plugin.bilevel import (
    BilevelProblem,
    CompileWarning,
    VerificationError,
    hypergradient,
)
from tests.bilevel.problems import hard_batch, soft_batches, worst_error

IN_PLACE = {
    "dropout": lambda y, training: F.dropout(y, 0.5, training, inplace=True),
    "dropout1d": lambda y, training: F.dropout1d(y[0], 0.5, training, inplace=True),
    "dropout2d": lambda y, training: F.dropout2d(y, 0.5, training, inplace=True),
    "alpha_dropout": lambda y, training: F.alpha_dropout(y, 0.5, training, inplace=True),
    "alpha_dropout of all": lambda y, training: F.alpha_dropout(y, 1.0, training, inplace=True),
    "feature": lambda y, training: F.feature_alpha_dropout(y, 0.5, training, inplace=True),
    "rrelu": lambda y, training: F.rrelu(y, 0.1, 0.9, training, inplace=True),
}
UNKNOWN = {
    "dropout_": lambda y, training: torch.dropout_(y, 0.5, training),
    "alpha_dropout_": lambda y, training: torch.alpha_dropout_(y, 0.5, training),
    "rrelu_": lambda y, training: torch.rrelu_(y, 0.1, 0.9, training),
    "normal": lambda y, training: y.add_(torch.normal(torch.zeros_like(y), 1.0)) if training else y,
}


class Randomly(nn.Module):
    """Writes random numbers into a tensor of its own; nobody looks at what that returns."""

    def __init__(self, write):
        super().__init__()
        self.write = write

    def forward(self, x):
        y = x * 1.0
        self.write(y, self.training)
        return y


def network(write):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), Randomly(write), nn.Flatten(), nn.Linear(144, 3)]
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("compile", [False, "trace"])
@pytest.mark.parametrize("name", IN_PLACE)
def test_what_is_written_in_place_counts(name, compile):
    batches, outer = soft_batches(2), hard_batch()
    still = BilevelProblem(network(lambda y, training: None))
    problem = BilevelProblem(network(IN_PLACE[name]), compile=compile)
    whole = hypergradient(problem, batches, outer, step_size=0.1, method="autograd")
    result = hypergradient(problem, batches, outer, step_size=0.1)
    assert result.method == "mixed"
    assert worst_error(result, whole)[0] < 1e-9
    # It did something, and something else in each step.
    dull = hypergradient(still, batches, outer, step_size=0.1)
    assert not torch.isclose(result.inner_losses, dull.inner_losses, rtol=1e-4).any()


def test_rrelu_is_torchs():
    x = torch.randn(1000, 7, dtype=torch.float64)
    layer = nn.Sequential(nn.RReLU(0.2, 0.4))
    torch.manual_seed(0)
    native = layer(x)
    problem = BilevelProblem(nn.Sequential(nn.Linear(7, 7), layer).double())
    model = problem.model
    eye = {"0.weight": torch.eye(7).double(), "0.bias": torch.zeros(7).double()}
    with model.ready():
        out, still = (
            model(
                parameters=eye,
                statistics={},
                counters={},
                constants={},
                fixed={},
                images=x,
                training=training,
            )[0]
            for training in (True, False)
        )
    below = x < 0
    for y in (native, out):
        assert torch.equal(y[~below], x[~below])
        slopes = (y / x)[below].detach()
        assert 0.2 <= float(slopes.min()) < 0.21 < 0.39 < float(slopes.max()) <= 0.4
        assert abs(float(slopes.mean()) - 0.3) < 0.005
    torch.testing.assert_close(still, layer.eval()(x))


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_trace_that_would_draw_by_itself_is_not_used(name):
    batches, outer = soft_batches(2), hard_batch()
    problem = BilevelProblem(network(UNKNOWN[name]), compile="trace", verify=False)
    whole = hypergradient(problem, batches, outer, step_size=0.1, method="autograd")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = hypergradient(problem, batches, outer, step_size=0.1)
    told = [w for w in said if w.category is CompileWarning]
    assert told
    assert "random" in str(told[0].message)
    assert worst_error(result, whole)[0] < 1e-9


class WithoutRule(torch.autograd.Function):
    """The identity, without a forward-mode rule."""

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, slope):
        return slope


def test_the_net_speaks_where_forward_mode_cannot():
    def write(y, training):
        y.copy_(WithoutRule.apply(y) * (1.0 if get_proxy_mode() is None else 1.1))

    problem = BilevelProblem(network(write), compile="trace")
    batches, outer = soft_batches(2), hard_batch()
    with pytest.raises(VerificationError, match="Without a trace they agree"):
        hypergradient(problem, batches, outer, step_size=0.1, method="reverse")
