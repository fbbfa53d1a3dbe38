"""Models with random layers: replayed exactly, with the distributions of torch."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dd_plugin.bilevel import BilevelProblem, Recompute, hypergradient
from dd_plugin.bilevel.foreign_models.draws import Draws, drawing_from
from dd_plugin.bilevel.foreign_models.replay import replayed
from tests.bilevel.problems import convnet, hard_batch, soft_batches, worst_error


class _DropPath(nn.Module):
    """Stochastic depth as timm writes it."""

    def forward(self, x):
        keep = x.new_empty((len(x),) + (1,) * (x.dim() - 1)).bernoulli_(0.6)
        return x * keep.div_(0.6) if self.training else x


class _Noise(nn.Module):
    def forward(self, x):
        noise = torch.randn_like(x) * 0.1 + 0.1 * torch.rand(x.shape[1:], dtype=x.dtype)
        return x + noise if self.training else x


def _random_model():
    # The permutation gives dropout an input whose memory layout differs between transforms.
    class Permuted(nn.Module):
        def forward(self, x):
            return F.dropout(x.permute(0, 2, 3, 1), 0.4, self.training).permute(0, 3, 1, 2)

    layers = list(convnet())
    return nn.Sequential(
        *layers[:4], Permuted(), _DropPath(), nn.Dropout2d(0.3), *layers[4:8], _Noise(), *layers[8:]
    )


@pytest.mark.parametrize("method", ["mixed", "reverse"])
@pytest.mark.parametrize("storage", [None, Recompute(2)])
def test_random_models_are_replayed_exactly(method, storage):
    problem = BilevelProblem(_random_model())
    batches, outer = soft_batches(4), hard_batch()
    options = {"step_size": 0.2, "seed": 5}
    oracle = hypergradient(problem, batches, outer, method="autograd", **options)
    result = hypergradient(problem, batches, outer, method=method, storage=storage, **options)
    assert worst_error(result, oracle)[0] < 1e-9
    other = hypergradient(problem, batches, outer, step_size=0.2, seed=6)
    assert float((other.outer_loss - oracle.outer_loss).abs()) > 1e-6


def test_without_replay_the_gradient_would_be_wrong(monkeypatch):
    # The same run with the seed of the backward sweep's draws spoilt: the test above can fail.
    problem = BilevelProblem(_random_model(), verify=False)
    batches, outer = soft_batches(4), hard_batch()
    oracle = hypergradient(problem, batches, outer, method="autograd", step_size=0.2)
    sweep = problem.sweep

    def spoilt(inputs, *bars):
        return sweep(inputs._replace(noise=inputs.noise + 1), *bars)

    monkeypatch.setattr(problem, "sweep", spoilt)
    result = hypergradient(problem, batches, outer, step_size=0.2)
    assert worst_error(result, oracle)[0] > 1e-3


class _OtherGenerators(nn.Module):
    """Draws from Python's and NumPy's generators, which no replacement sees."""

    def forward(self, x):
        scale = 1 + 0.2 * random.random() + 0.2 * np.random.rand()  # noqa: NPY002
        return x * scale if self.training else x


@pytest.mark.parametrize("method", ["mixed", "reverse"])
def test_other_generators_are_replayed_too(method):
    problem = BilevelProblem(nn.Sequential(_OtherGenerators(), *convnet()))
    batches, outer = soft_batches(3), hard_batch()
    states = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    oracle = hypergradient(problem, batches, outer, method="autograd", step_size=0.2)
    result = hypergradient(problem, batches, outer, method=method, step_size=0.2)
    assert worst_error(result, oracle)[0] < 1e-9
    other = hypergradient(problem, batches, outer, step_size=0.2, seed=1)
    assert float((other.outer_loss - oracle.outer_loss).abs()) > 1e-6
    assert states[0] == random.getstate()
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002


OPERATIONS = {
    "dropout": (lambda x: F.dropout(x, 0.3), 1.0, 0.3 / 0.7),
    "dropout1d": (lambda x: F.dropout1d(x, 0.3), 1.0, 0.3 / 0.7),
    "alpha_dropout": (lambda x: F.alpha_dropout(x * 0, 0.3, True), 0.0, None),
    "bernoulli": (lambda x: torch.bernoulli(x * 0.3), 0.3, 0.21),
    "bernoulli_": (lambda x: torch.empty_like(x).bernoulli_(0.3), 0.3, 0.21),
    "uniform_": (lambda x: torch.empty_like(x).uniform_(1.0, 3.0), 2.0, 4 / 12),
    "normal_": (lambda x: torch.empty_like(x).normal_(1.0, 2.0), 1.0, 4.0),
    "exponential_": (lambda x: torch.empty_like(x).exponential_(2.0), 0.5, 0.25),
    "rand": (lambda x: torch.rand(x.shape), 0.5, 1 / 12),
    "randn": (lambda x: torch.randn(x.shape), 0.0, 1.0),
    "randint": (lambda x: torch.randint(2, 5, x.shape).float(), 3.0, 2 / 3),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_replaced_operations_have_torch_s_distribution(name):
    operation, mean, variance = OPERATIONS[name]
    with replayed(), drawing_from(Draws(3)):
        values = operation(torch.ones(200, 50, 4))
    # 40,000 draws (10,000 masks for dropout1d): five standard errors are below 0.05 here.
    assert float(values.mean()) == pytest.approx(mean, abs=0.05)
    if variance is not None:
        assert float(values.var()) == pytest.approx(variance, abs=0.12 * max(variance, 0.5))


def test_randperm_is_a_permutation():
    with replayed(), drawing_from(Draws(3)):
        assert sorted(torch.randperm(9).tolist()) == list(range(9))
