"""A model as a pure function: which tensor plays which part, and what cannot be one."""

import copy

import pytest
import torch
from torch import nn

from dd_plugin.bilevel import BilevelProblem, FunctionalModel, hypergradient, logits_of
from dd_plugin.bn import convert_bn
from tests.bilevel.problems import (
    assert_unchanged,
    convnet,
    frozen_copy,
    hard_batch,
    soft_batches,
    worst_error,
)


@pytest.mark.parametrize(
    ("policy", "roles"),
    [
        (None, {"statistics": 4, "counters": 2, "constants": 0, "fixed": 0}),
        (("tracked", "batch"), {"statistics": 4, "counters": 2, "constants": 6, "fixed": 0}),
        (("learned", "batch"), {"statistics": 0, "counters": 0, "constants": 4, "fixed": 2}),
        (("learned", "running"), {"statistics": 0, "counters": 0, "constants": 0, "fixed": 2}),
        (("frozen", "batch"), {"statistics": 0, "counters": 0, "constants": 4, "fixed": 2}),
    ],
)
def test_roles(policy, roles):
    model = convnet() if policy is None else convert_bn(convnet(), *policy)
    functional = FunctionalModel(model)
    assert {role: len(getattr(functional, role)) for role in roles} == roles
    # Two convolutions, two affine pairs, a linear layer; and four statistics that are trained.
    assert len(functional.parameters) == (12 if policy == ("learned", "running") else 8)


def test_constant_statistics_of_stock_layers_stay():
    model = convnet()
    model[1].running_mean.fill_(0.5)
    before = frozen_copy(model)
    problem = BilevelProblem(model, stock_statistics="constant")
    batches, outer = soft_batches(2), hard_batch()
    result = hypergradient(problem, batches, outer, step_size=0.1)
    oracle = hypergradient(problem, batches, outer, step_size=0.1, method="autograd")
    assert worst_error(result, oracle)[0] < 1e-9
    assert not result.statistics
    assert float(result.constants["1.running_mean"].abs().sum()) > 0
    assert_unchanged(model, before)


def test_a_trained_network_is_the_one_that_torch_trains():
    model = convnet()
    problem = BilevelProblem(model)
    batches = soft_batches(3)
    result = hypergradient(problem, batches, hard_batch(), step_size=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    final = {**result.final.parameters, **result.final.statistics, **result.final.counters}
    for name, value in model.state_dict().items():
        torch.testing.assert_close(final[name], value)


class _Counts(nn.Module):
    """A buffer of a kind that nobody knows, moved in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.zeros(3, dtype=torch.float64))

    def forward(self, x):
        if self.training:
            self.average.mul_(0.5).add_(x.mean((0, 2, 3)), alpha=0.5)
            return x
        return x + self.average.view(1, -1, 1, 1)


def test_buffers_of_unknown_kinds_are_state_too():
    layers = list(convnet())
    problem = BilevelProblem(nn.Sequential(*layers[:4], _Counts(), *layers[4:]))
    batches, outer = soft_batches(3), hard_batch()
    result = hypergradient(problem, batches, outer, step_size=0.1)
    oracle = hypergradient(problem, batches, outer, step_size=0.1, method="autograd")
    assert "4.average" in result.statistics
    assert worst_error(result, oracle)[0] < 1e-9


class _Centred(nn.Module):
    """Begins with an operation in place on what it is given."""

    def forward(self, x):
        return x.sub_(0.5).mul_(2.0)


def test_images_that_a_model_writes_into_are_copies():
    problem = BilevelProblem(nn.Sequential(_Centred(), *convnet()))
    batches, outer = soft_batches(2), hard_batch()
    before = [t.clone() for t in (*batches[0], *batches[1], *outer)]
    oracle = hypergradient(problem, batches, outer, step_size=0.1, method="autograd")
    for method in ("mixed", "reverse"):
        result = hypergradient(problem, batches, outer, step_size=0.1, method=method)
        assert worst_error(result, oracle)[0] < 1e-9
    after = (*batches[0], *batches[1], *outer)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_frozen_backbone_is_no_parameter():
    # Its BatchNorm moves its statistics all the same, and gradients go through it to the images.
    model = convnet()
    for p in model[:-1].parameters():
        p.requires_grad_(False)
    problem = BilevelProblem(model)
    batches, outer = soft_batches(3), hard_batch()
    result = hypergradient(problem, batches, outer, step_size=0.1)
    assert sorted(result.parameters) == ["9.bias", "9.weight"]
    assert len(result.statistics) == 4
    assert float(result.batches[0].images.abs().sum()) > 0
    oracle = hypergradient(problem, batches, outer, step_size=0.1, method="autograd")
    assert worst_error(result, oracle)[0] < 1e-9


@pytest.mark.parametrize("policy", [None, "tracked"])
def test_momentum_of_none_is_the_cumulative_average_of_torch(policy):
    model = convnet()
    model[1].momentum = model[5].momentum = None
    reference = copy.deepcopy(model)
    problem = BilevelProblem(model if policy is None else convert_bn(model, policy))
    batches, outer = soft_batches(3), hard_batch()
    result = hypergradient(problem, batches, outer, step_size=0.0)
    # With a step size of 0 the weights stay, and torch's forward passes move the same average.
    for images, _ in batches:
        reference(images)
    for name, value in result.final.statistics.items():
        torch.testing.assert_close(value, reference.get_buffer(name))
    oracle = hypergradient(problem, batches, outer, step_size=0.0, method="autograd")
    assert worst_error(result, oracle)[0] < 1e-9


def test_logits_of():
    logits = torch.ones(2, 3)
    assert logits_of(logits) is logits
    assert logits_of({"logits": logits, "loss": None}) is logits
    assert logits_of((logits, None)) is logits
    with pytest.raises(TypeError, match="wrap it in a module"):
        logits_of({"scores": logits})


def test_errors():
    with pytest.raises(TypeError, match=r"`model` must be an nn\.Module"):
        FunctionalModel("resnet")
    with pytest.raises(ValueError, match="`stock_statistics` must be"):
        FunctionalModel(convnet(), stock_statistics="frozen")
    with pytest.raises(TypeError, match="`autocast` must be a dtype"):
        FunctionalModel(convnet(), autocast="bf16")
    with pytest.raises(TypeError, match=r"inside of a OptimizedModule; pass `model\._orig_mod`"):
        FunctionalModel(torch.compile(convnet(), backend="eager"))
    with pytest.raises(TypeError, match=r"inside of a DataParallel; pass `model\.module`"):
        FunctionalModel(nn.DataParallel(convnet()))
    with pytest.raises(ValueError, match="no trainable parameter; call"):
        FunctionalModel(convnet().requires_grad_(False))
    model = convnet()
    model.handle = (i for i in range(3))
    with pytest.raises(TypeError, match="cannot be copied"):
        FunctionalModel(model)


@pytest.mark.parametrize("register", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_on_gradients_of_parameters_are_told(register):
    model = nn.Linear(2, 2)
    FunctionalModel(model)
    getattr(model.weight, register)(lambda gradient: None)
    with pytest.warns(UserWarning, match="'weight' has one") as said:
        FunctionalModel(model)
    assert said[0].filename == __file__
    with pytest.warns(UserWarning, match="are not run") as said:
        BilevelProblem(model)
    assert said[0].filename == __file__
