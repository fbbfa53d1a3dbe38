"""The engine against `higher` and `torchopt`, in what those can express; both are optional."""

import pytest
import torch
from torch.nn import functional as F

from dd_plugin.bilevel import BilevelProblem, adam, hypergradient, sgd
from tests.bilevel.problems import convnet, hard_batch, relative_error, soft_batches

# `higher` adds Adam's eps before the bias correction, as torch once did. With a tiny eps it does
# not matter, but nothing then damps the rounding of gradients close to zero.
TOLERANCE = {"sgd": 1e-9, "adam": 1e-7}
CASES = {
    "sgd": (sgd(0.9), torch.optim.SGD, {"momentum": 0.9}),
    "adam": (adam(eps=1e-15), torch.optim.Adam, {"eps": 1e-15}),
}


def _ours(model, optimizer, images, labels, outer):
    # Train mode for the outer loss: the other tools keep running statistics out of the graph.
    problem = BilevelProblem(model, optimizer=optimizer, outer_training=True)
    result = hypergradient(
        problem, [(images, labels)] * 3, outer, step_size=0.05, leaves=[images, labels]
    )
    return result.outer_loss, list(result.leaves)


def _leaves():
    images, labels = soft_batches(1)[0]
    return images.requires_grad_(), labels.requires_grad_(), hard_batch()


@pytest.mark.parametrize("case", CASES)
def test_higher_agrees(case):
    higher = pytest.importorskip("higher")
    ours, theirs, options = CASES[case]
    model = convnet()
    images, labels, outer = _leaves()
    expected = _ours(model, ours, images, labels, outer)
    optimizer = theirs(model.parameters(), lr=0.05, **options)
    with higher.innerloop_ctx(model, optimizer) as (network, inner):
        for _ in range(3):
            inner.step(F.cross_entropy(network(images), labels))
        loss = F.cross_entropy(network(outer[0]), outer[1])
        found = torch.autograd.grad(loss, [images, labels])
    assert relative_error(loss.detach(), expected[0]) < TOLERANCE[case]
    assert relative_error(list(found), expected[1]) < TOLERANCE[case]


def test_torchopt_agrees():
    torchopt = pytest.importorskip("torchopt")
    model = convnet()
    images, labels, outer = _leaves()
    expected = _ours(model, sgd(0.9), images, labels, outer)
    inner = torchopt.MetaSGD(model, lr=0.05, momentum=0.9)
    for _ in range(3):
        inner.step(F.cross_entropy(model(images), labels))
    loss = F.cross_entropy(model(outer[0]), outer[1])
    found = torch.autograd.grad(loss, [images, labels])
    assert relative_error(loss.detach(), expected[0]) < 1e-9
    assert relative_error(list(found), expected[1]) < 1e-9
