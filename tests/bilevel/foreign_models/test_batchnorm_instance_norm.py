"""InstanceNorm that keeps a moving average: as stock BatchNorm, tracked and differentiated."""

import pytest
import torch
from torch import nn

from dd_plugin.bilevel import BilevelProblem, cross_entropy, hypergradient
from tests.bilevel.problems import (
    assert_unchanged,
    frozen_copy,
    hard_batch,
    soft_batches,
    worst_error,
)


def network(affine=True, flat=False):
    torch.manual_seed(0)
    if flat:
        norm = nn.Sequential(
            nn.Flatten(2), nn.InstanceNorm1d(4, affine=affine, track_running_stats=True)
        )
    else:
        norm = nn.Sequential(nn.InstanceNorm2d(4, affine=affine, track_running_stats=True))
    head = [nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 3)]
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, *head).double()


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("compile", [False, "trace"])
def test_its_average_is_differentiated_and_that_of_plain_training(flat, affine, compile):
    model = network(affine, flat)
    before = frozen_copy(model)
    problem = BilevelProblem(model, compile=compile)
    batches, outer = soft_batches(3), hard_batch()
    whole = hypergradient(problem, batches, outer, step_size=0.1, method="autograd")
    for method in ("mixed", "reverse"):
        result = hypergradient(problem, batches, outer, step_size=0.1, method=method)
        assert worst_error(result, whole)[0] < 1e-9
        assert all(float(t.norm()) > 1e-6 for t in result.statistics.values())
    assert_unchanged(model, before)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert len(whole.final.statistics) == 2
    for name, t in whole.final.statistics.items():
        torch.testing.assert_close(t, model.get_buffer(name), rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        loss = cross_entropy(model.eval()(outer[0]), outer[1])
    torch.testing.assert_close(whole.outer_loss, loss, rtol=1e-10, atol=1e-12)


def test_a_batch_of_one():
    problem = BilevelProblem(network())
    batches, outer = soft_batches(2, size=1), hard_batch()
    whole = hypergradient(problem, batches, outer, step_size=0.1, method="autograd")
    result = hypergradient(problem, batches, outer, step_size=0.1)
    assert worst_error(result, whole)[0] < 1e-9
