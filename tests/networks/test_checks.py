"""Whether a network takes some images, and whether training left it whole."""

import copy

import pytest
import torch
from torch import nn

from dd_plugin.evaluation import DivergedError
from dd_plugin.networks.checks import check_takes, check_trained


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))


def test_finite_weights_with_an_output_of_nan_are_told_of():
    network = linear()
    network[1].weight.data.fill_(3e38)
    network[1].bias.data.fill_(-torch.finfo(torch.float32).max)
    images = torch.full((2, 1, 8, 8), 3e38)
    images[:, :, 0] *= -1
    with pytest.raises(DivergedError, match="its output"):
        check_trained(network, images, set(), "do something else")


def test_looking_at_a_network_changes_nothing():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten())
    network.append(nn.Linear(72, 2)).train()
    images = torch.rand(2, 1, 8, 8)
    before, state = copy.deepcopy(network.state_dict()), torch.random.get_rng_state()
    check_takes(network, images, 2)
    assert network.training
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    with pytest.raises(ValueError, match="one for each class"):
        check_takes(network.eval(), images, 3)
    assert not network.training
