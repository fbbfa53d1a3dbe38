"""What the statistics of a layer are, and how they are stored."""

import math

import pytest
import torch
from torch import nn

from dd_plugin.bn import LearnableBatchNorm2d, convert_bn, revert_bn, tracking_tensors
from tests.bn.layers import images, stock


def test_learned_momentum_is_folded_on_revert():
    layer = convert_bn(nn.BatchNorm1d(1, momentum=0.2), "tracked")
    layer.momentum_shift.fill_(math.log(4.0))  # logit(0.2) + log 4 = 0
    assert revert_bn(layer).momentum == pytest.approx(0.5, rel=1e-6)
    untouched = convert_bn(nn.BatchNorm1d(1, momentum=0.2), "tracked")
    assert revert_bn(untouched).momentum == 0.2


def test_checkpoints_carry_outputs_whatever_the_corrections():
    source, target = (convert_bn(stock(), "tracked").eval() for _ in range(2))
    for i, layer in enumerate((source, target)):
        layer.mean_correction.fill_(0.3 - i)
        layer.var_correction.fill_(0.2 + i)
    x = images()
    target.load_state_dict(source.state_dict())
    torch.testing.assert_close(target(x), source(x), rtol=1e-12, atol=1e-12)
    assert target.mean_correction.item() == pytest.approx(-0.7)


def test_tracking_tensors_can_be_learned_by_an_ordinary_optimizer():
    """Eval-mode loss reaches the corrections: descend until two scales agree."""
    layer = convert_bn(nn.BatchNorm1d(1, affine=False), "tracked").eval()
    scalars = tracking_tensors(layer)
    assert [*scalars] == ["momentum_shift", "mean_correction", "var_correction"]
    scalars["var_correction"].requires_grad_()
    optimizer = torch.optim.SGD([scalars["var_correction"]], lr=0.5)
    x = torch.tensor([[3.0]])
    for _ in range(200):
        optimizer.zero_grad()
        (layer(x) - 1).square().sum().backward()
        optimizer.step()
    assert layer(x).item() == pytest.approx(1.0, abs=1e-3)
    assert scalars["var_correction"].item() == pytest.approx(math.log(9.0), abs=1e-2)


def test_reset_running_stats_warns_when_nothing_refills():
    layer = convert_bn(nn.BatchNorm2d(3))
    layer.reset_parameters()
    with pytest.warns(UserWarning, match=r"tracked.*revert_bn"):
        layer.reset_running_stats()
    convert_bn(layer, "tracked").reset_running_stats()


@pytest.mark.parametrize("argument", [{"statistics": "lerned"}, {"train_with": "test"}])
def test_unknown_policy(argument):
    with pytest.raises(ValueError, match="must be one of"):
        LearnableBatchNorm2d(3, **argument)


def test_layer_without_a_batch_counter():
    # Momentum None divides by the counter; without one the stock layer stands still.
    layer = nn.BatchNorm2d(3, momentum=None)
    layer.num_batches_tracked = None
    convert_bn(layer, "tracked")(torch.randn(4, 3, 5, 5))
    assert torch.equal(layer.running_mean, torch.zeros(3))
