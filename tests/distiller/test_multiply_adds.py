"""`dd_plugin.distiller.multiply_adds`: what a forward pass of a network takes."""

import torch
from torch import nn

from dd_plugin.data import Normalization
from dd_plugin.distiller.architectures import Architectures
from dd_plugin.distiller.multiply_adds import of_architectures, of_backbones
from dd_plugin.distiller.networks import Networks
from dd_plugin.networks import load_backbone
from tests.distiller.toy import Small

SHAPE = (1, 8, 8)


def networks_of(model):
    return Networks(model, num_classes=3, shape=SHAPE)


def net(width):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(width * 64, 3),
    )


def multiply_adds(width):
    # Nine of each of 64 places in each channel, and three for each value of the last layer.
    return 64 * 9 * width + 3 * 64 * width


def test_convolutions_and_products_are_counted():
    assert of_architectures(Architectures([networks_of(net(4))], 0), SHAPE) == multiply_adds(4)


def test_several_architectures_count_as_their_mean():
    several = Architectures([networks_of(net(4)), networks_of(net(8))], 0)
    assert of_architectures(several, SHAPE) == (multiply_adds(4) + multiply_adds(8)) / 2


def test_a_frozen_network_is_counted_with_its_own_images():
    # Stride 2 leaves three of eight rows; the head is no part of it.
    as_pixels = Normalization([0.0] * 3, [1.0] * 3)
    backbone = load_backbone(Small(width=6), normalization=as_pixels)
    assert of_backbones([backbone], (3, 8, 8)) == 3 * 3 * 27 * 6
    assert not backbone.training


def test_counting_changes_no_random_number_and_no_mode():
    model = net(4)
    torch.manual_seed(0)
    expected = torch.rand(3)
    networks = networks_of(model)
    torch.manual_seed(0)
    of_architectures(Architectures([networks], 0), SHAPE)
    assert torch.equal(torch.rand(3), expected)
    assert model.training
