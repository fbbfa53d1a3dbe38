"""A network without its last layer, and a new head at the place of the old one."""

from torch import nn

from dd_plugin.networks.backbones import load_backbone
from tests.networks.models import (
    HALF,
    ConvolutionalHead,
    check_head,
    lively,
    tiny,
)


def test_a_convolution_as_classifier_stays_one():
    module = lively(ConvolutionalHead())
    backbone = load_backbone(module, normalization=HALF)
    head = check_head(backbone)
    assert isinstance(head.classifier, nn.Conv2d)
    assert backbone.num_features == 8


def test_a_named_layer_before_the_one_classifier_keeps_the_model():
    backbone = load_backbone(tiny(), feature_layer="global_pool")
    assert backbone.num_features == 512
    assert type(check_head(backbone)).__name__ == "ResNet"
