"""timm's models as backbones: the features are what a model's own head takes."""

import pytest
import timm
import torch
import torch.nn.functional as F

from dd_plugin.networks.backbones import load_backbone
from dd_plugin.networks.feature_networks import FeatureClassifier
from tests.networks.models import (
    NAMES,
    TIMM,
    check_head,
    head_for,
    images,
    timm_model,
    tiny,
)


@pytest.mark.parametrize("kind", sorted(TIMM))
def test_features_of_timm_models_are_what_their_head_takes(kind):
    model = timm_model(kind)
    backbone = load_backbone(model)
    batch = backbone.network_input(images(backbone.size))
    features = backbone(images(backbone.size))
    assert features.shape == (2, backbone.num_features)
    with torch.no_grad():
        own = model.forward_head(model.forward_features(batch), pre_logits=True)
    if kind != "norm_linear":  # there the head normalizes them first, and that is not replaced
        assert torch.allclose(features, own, rtol=1e-4, atol=1e-5)
    head = check_head(backbone)
    # Two heads of different widths have no place for one.
    assert isinstance(head, FeatureClassifier if kind == "two_widths" else type(model))
    if kind != "two_widths":
        assert head.num_classes == len(NAMES)


@pytest.mark.parametrize("kind", ["cnn", "vit", "vit_mean", "conv_classifier", "norm_mlp"])
def test_the_models_own_classifier_on_the_features_gives_its_own_logits(kind):
    model = timm_model(kind)
    backbone = load_backbone(model)
    last = model.get_classifier()
    weight = last.weight.flatten(1)  # of a linear layer or a 1x1 convolution
    pixels = images(backbone.size)
    with torch.no_grad():
        expected = model(backbone.network_input(pixels))
        logits = F.linear(backbone(pixels), weight, last.bias)
    assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_two_heads_of_a_distilled_model_take_the_same_weights():
    model = timm_model("distilled")
    backbone = load_backbone(model)
    head = backbone.with_head(*head_for(backbone), NAMES)
    assert torch.equal(head.head.weight, head.head_dist.weight)
    both = model.forward_features(backbone.network_input(images(backbone.size)))[:, :2]
    expected = model.fc_norm(both).mean(1) if hasattr(model, "fc_norm") else both.mean(1)
    assert torch.allclose(backbone(images(backbone.size)), expected, rtol=1e-4, atol=1e-5)


def test_a_model_that_was_given_a_head_is_an_ordinary_timm_model():
    backbone = load_backbone(tiny())
    model = check_head(backbone)
    again = timm.create_model("resnet10t", pretrained=False, num_classes=len(NAMES)).eval()
    again.load_state_dict(model.state_dict())
    batch = backbone.network_input(images((64, 64)))
    assert torch.equal(again(batch), model(batch))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_image_size_sets_the_grid_or_resizes_every_image():
    by_name = load_backbone("timm/vit_tiny_patch16_224", pretrained=False, image_size=(64, 48))
    assert by_name.size == by_name.input_size(96, 96) == (64, 48)
    by_object = load_backbone(timm_model("vit"), image_size=48)
    assert by_object.size == (48, 48)
    convolutional = load_backbone(tiny(), image_size=96)
    assert convolutional.input_size(32, 32) == (96, 96)
    assert convolutional(images((32, 32))).shape == (2, 512)
