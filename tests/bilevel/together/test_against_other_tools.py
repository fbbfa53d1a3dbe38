"""The engine against `higher` and `torchopt`, in what those can express; both are optional."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dd_plugin.bilevel import BilevelProblem, adam, hypergradient, sgd
from dd_plugin.bn import convert_bn
from tests.bilevel.problems import convnet, hard_batch, relative_error, soft_batches

STEPS = 3
# `higher` adds Adam's eps before the bias correction, as torch once did. With a tiny eps it does
# not matter, but nothing then damps the rounding of gradients close to zero.
HIGHER = {
    "sgd": (sgd(), torch.optim.SGD, {}, 1e-9),
    "momentum": (sgd(0.9), torch.optim.SGD, {"momentum": 0.9}, 1e-9),
    "nesterov": (
        sgd(0.9, nesterov=True, weight_decay=0.1),
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        1e-9,
    ),
    "adam": (adam(eps=1e-15), torch.optim.Adam, {"eps": 1e-15}, 1e-7),
}
TORCHOPT = {
    "sgd": (sgd(), "MetaSGD", {}),
    "momentum": (sgd(0.9), "MetaSGD", {"momentum": 0.9}),
    "adam": (adam(eps=1e-3), "MetaAdam", {"eps": 1e-3}),
    "adam decay": (
        adam((0.8, 0.9), eps=1e-3, weight_decay=0.1),
        "MetaAdam",
        {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1},
    ),
}


def _model(outer_mode):
    """A ConvNet, and how the problem is posed, such that both tools differentiate the same.

    The other tools keep the moving average out of the graph. So the outer loss is in train mode;
    or in eval mode with statistics that stand still (a momentum of 0); or with statistics that
    are parameters, used and trained by the inner loss.
    """
    model = convnet()
    if outer_mode == "train":
        return model, {"outer_training": True}
    for layer in model:
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.0
            with torch.no_grad():
                layer.running_mean.uniform_(-0.5, 0.5)
                layer.running_var.uniform_(0.5, 1.5)
    if outer_mode == "eval, learned":
        convert_bn(model, "learned", train_with="running")
    return model, {}


def _data():
    images, labels = soft_batches(1)[0]
    return images.requires_grad_(), labels.requires_grad_(), hard_batch()


def _ours(model, optimizer, how, images, labels, outer):
    problem = BilevelProblem(model, optimizer=optimizer, **how)
    result = hypergradient(
        problem, [(images, labels)] * STEPS, outer, step_size=0.05, leaves=[images, labels]
    )
    return result.outer_loss, list(result.leaves)


OUTER_MODES = ["train", "eval, constant", "eval, learned"]


@pytest.mark.parametrize("case", HIGHER)
@pytest.mark.parametrize("outer_mode", OUTER_MODES)
def test_higher_agrees(case, outer_mode):
    higher = pytest.importorskip("higher")
    ours, theirs, options, tolerance = HIGHER[case]
    model, how = _model(outer_mode)
    images, labels, outer = _data()
    expected = _ours(model, ours, how, images, labels, outer)
    optimizer = theirs(model.parameters(), lr=0.05, **options)
    with higher.innerloop_ctx(model, optimizer) as (network, inner):
        for _ in range(STEPS):
            inner.step(F.cross_entropy(network(images), labels))
        network.train(outer_mode == "train")
        loss = F.cross_entropy(network(outer[0]), outer[1])
        found = torch.autograd.grad(loss, [images, labels])
    assert relative_error(loss.detach(), expected[0]) < tolerance
    assert relative_error(list(found), expected[1]) < tolerance


@pytest.fixture
def _double_by_default():
    """`torchopt` computes Adam's bias corrections in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_double_by_default")
@pytest.mark.parametrize("case", TORCHOPT)
@pytest.mark.parametrize("outer_mode", OUTER_MODES)
def test_torchopt_agrees(case, outer_mode):
    torchopt = pytest.importorskip("torchopt")
    ours, theirs, options = TORCHOPT[case]
    model, how = _model(outer_mode)
    images, labels, outer = _data()
    expected = _ours(model, ours, how, images, labels, outer)
    inner = getattr(torchopt, theirs)(model, lr=0.05, **options)
    for _ in range(STEPS):
        inner.step(F.cross_entropy(model(images), labels))
    model.train(outer_mode == "train")
    loss = F.cross_entropy(model(outer[0]), outer[1])
    found = torch.autograd.grad(loss, [images, labels])
    assert relative_error(loss.detach(), expected[0]) < 1e-9
    assert relative_error(list(found), expected[1]) < 1e-9
