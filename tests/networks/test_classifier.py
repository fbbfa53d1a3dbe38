"""A network without its last layer, and a new head at the place of the old one."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dd_plugin.networks.backbones import load_backbone
from dd_plugin.networks.feature_networks import FeatureClassifier
from tests.networks.models import (
    HALF,
    ConvolutionalHead,
    check_head,
    images,
    lively,
    tiny,
)


def test_a_convolution_as_classifier_stays_one():
    module = lively(ConvolutionalHead())
    backbone = load_backbone(module, normalization=HALF)
    head = check_head(backbone)
    assert isinstance(head.classifier, nn.Conv2d)
    assert backbone.num_features == 8


class Two(nn.Module):
    """A user's network with something behind the layer that is asked for."""

    def __init__(self, last=True):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.hidden = nn.Linear(6, 9)
        self.last = nn.Linear(9, 4)

    def forward(self, images):
        return self.last(F.relu(self.hidden(self.pool(self.stem(images)))))


@pytest.mark.parametrize(
    ("layer", "width", "ordinary"),
    [(None, 9, True), ("hidden", 9, False), ("pool", 6, False), ("stem", 6, False)],
)
def test_a_named_layer_gives_what_it_returns(layer, width, ordinary):
    module = lively(Two())
    backbone = load_backbone(module, feature_layer=layer, normalization=HALF)
    assert backbone.num_features == width
    batch = backbone.network_input(images(backbone.size))
    with torch.no_grad():
        maps = module.stem(batch)
        expected = {
            "stem": maps.mean((2, 3)),
            "pool": module.pool(maps),
            "hidden": module.hidden(module.pool(maps)),
            None: F.relu(module.hidden(module.pool(maps))),
        }[layer]
    assert torch.allclose(backbone(images(backbone.size)), expected, atol=1e-6)
    head = check_head(backbone)
    assert isinstance(head, Two if ordinary else FeatureClassifier)


def test_a_named_layer_before_the_one_classifier_keeps_the_model():
    backbone = load_backbone(tiny(), feature_layer="global_pool")
    assert backbone.num_features == 512
    assert type(check_head(backbone)).__name__ == "ResNet"
