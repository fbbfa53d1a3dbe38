"""Moving averages that stay in the graph: their values and derivatives in closed form."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from dd_plugin.bn import convert_bn, statistics_in_graph
from tests.bn.layers import images, tensors_of


def test_tracked_in_graph_closed_form():
    # One channel, batch {1, 3}: mean 2, unbiased variance 2. From (mean 10, var 4) at momentum
    # 1/4: mean = 3/4 * 10 + 1/4 * 2 = 8, var = 3/4 * 4 + 1/4 * 2 = 3.5.
    layer = convert_bn(nn.BatchNorm1d(1, momentum=0.25, dtype=torch.float64), "tracked")
    tensors = {k: v.detach().clone() for k, v in tensors_of(layer).items()}
    start = {
        "running_mean": torch.tensor([10.0], dtype=torch.float64, requires_grad=True),
        "running_var": torch.tensor([4.0], dtype=torch.float64, requires_grad=True),
        "momentum_shift": torch.zeros((), dtype=torch.float64, requires_grad=True),
    }
    tensors.update(start)
    x = torch.tensor([[1.0], [3.0]], dtype=torch.float64, requires_grad=True)
    with statistics_in_graph():
        functional_call(layer, tensors, (x,))
    assert tensors["running_mean"].item() == 8.0
    assert tensors["running_var"].item() == 3.5
    assert tensors["num_batches_tracked"].item() == 1
    # d mean: 3/4 from its start, 1/4 * 1/2 from each value, and from the shift
    # dm/ds (2 - 10) with dm/ds = m (1 - m) = 3/16: -1.5.
    by = torch.autograd.grad(
        tensors["running_mean"].sum(),
        [start["running_mean"], x, start["momentum_shift"]],
        retain_graph=True,
    )
    assert by[0].item() == 0.75
    assert by[1].flatten().tolist() == [0.125, 0.125]
    assert by[2].item() == pytest.approx(-1.5, rel=1e-12)
    # d var: the unbiased variance of two values is (b - a)^2 / 2, so 1/4 * (a - b, b - a).
    by = torch.autograd.grad(
        tensors["running_var"].sum(), [start["running_var"], x, start["momentum_shift"]]
    )
    assert by[0].item() == 0.75
    torch.testing.assert_close(by[1].flatten(), torch.tensor([-0.5, 0.5], dtype=torch.float64))
    assert by[2].item() == pytest.approx(3 / 16 * (2 - 4), rel=1e-12)
    # And the layer itself has not moved.
    assert layer.running_mean.item() == 0.0
    assert layer.num_batches_tracked.item() == 0


def test_tracked_cumulative_average_in_graph():
    """momentum=None: after n batches the running mean is the mean of the n batch means."""
    layer = convert_bn(nn.BatchNorm1d(1, momentum=None, dtype=torch.float64), "tracked")
    tensors = tensors_of(layer)
    batches = torch.randn(3, 5, 1, dtype=torch.float64, requires_grad=True)
    with statistics_in_graph():
        for batch in batches:
            functional_call(layer, tensors, (batch,))
    torch.testing.assert_close(tensors["running_mean"][0], batches.mean())
    (by,) = torch.autograd.grad(tensors["running_mean"].sum(), batches)
    torch.testing.assert_close(by, torch.full_like(by, 1 / 15))


def test_one_layer_called_twice_moves_twice():
    shared = nn.BatchNorm2d(3, dtype=torch.float64)
    model = convert_bn(nn.Sequential(shared, shared), "tracked")
    tensors = tensors_of(model)
    x = images()
    with statistics_in_graph():
        functional_call(model, tensors, (x,))
    model(x)
    assert tensors["0.num_batches_tracked"].item() == 2
    torch.testing.assert_close(tensors["0.running_mean"], shared.running_mean)
