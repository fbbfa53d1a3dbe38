"""The features are what a model's own head takes, and heads go back where they were."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from dd_plugin.data import Normalization
from dd_plugin.networks.backbones import Backbone, load_backbone
from dd_plugin.networks.errors import BackboneError, BackboneWarning
from dd_plugin.networks.feature_networks import FeatureClassifier
from tests.networks.models import TIMM, ConvolutionalHead, lively, timm_model

HALF = Normalization([0.5] * 3, [0.5] * 3)
NAMES = ["ant", "bee", "cat"]


def images(size, number=2):
    return torch.rand(number, 3, *size, generator=torch.Generator().manual_seed(3))


def head_for(backbone):
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(len(NAMES), backbone.num_features, generator=generator)
    return weight, torch.randn(len(NAMES), generator=generator)


def logits_of(model, batch):
    output = model(batch)
    return output if isinstance(output, torch.Tensor) else output.logits


def check_head(backbone):
    """with_head(W, b) gives W f + b, and shares nothing with the backbone."""
    weight, bias = head_for(backbone)
    pixels = images(backbone.size)
    model = backbone.with_head(weight, bias, NAMES)
    expected = F.linear(backbone(pixels), weight, bias)
    actual = logits_of(model, backbone.network_input(pixels))
    assert torch.allclose(actual, expected, rtol=1e-4, atol=1e-4)
    assert not model.training
    assert model.class_names == NAMES
    theirs = {parameter.data_ptr() for parameter in backbone.parameters() if parameter.numel()}
    assert not theirs & {parameter.data_ptr() for parameter in model.parameters()}
    assert any(parameter.requires_grad for parameter in model.parameters())
    return model


def tiny(**changes):
    return timm_model("cnn", **changes)


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


def test_a_convolution_as_classifier_stays_one():
    module = lively(ConvolutionalHead())
    backbone = load_backbone(module, normalization=HALF)
    head = check_head(backbone)
    assert isinstance(head.classifier, nn.Conv2d)
    assert backbone.num_features == 8


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_the_gradient_for_the_images_is_that_of_the_plain_model(kind):
    model = timm_model(kind).double()
    backbone = load_backbone(model, dtype=torch.float64)
    pixels = images(backbone.size).double().requires_grad_()
    direction = torch.randn(2, backbone.num_features, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((backbone(pixels) * direction).sum(), pixels)
    mean, std = backbone.normalization.mean, backbone.normalization.std
    batch = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    own = model.forward_head(model.forward_features(batch), pre_logits=True)
    (expected,) = torch.autograd.grad((own * direction).sum(), pixels)
    assert torch.allclose(gradient, expected, rtol=1e-6, atol=1e-10)
    if kind == "cnn":
        return  # its kinks are too close for finite differences
    # And by a finite difference along one direction, through the resizing.
    small = images((24, 20)).double().requires_grad_()
    step = torch.randn(small.shape, dtype=torch.float64)
    backbone = load_backbone(model, dtype=torch.float64, image_size=backbone.size)
    (gradient,) = torch.autograd.grad((backbone(small) * direction).sum(), small)
    with torch.no_grad():
        ahead, behind = (backbone(small + sign * 1e-6 * step) for sign in (1, -1))
    slope = ((ahead - behind) * direction).sum() / 2e-6
    assert torch.allclose((gradient * step).sum(), slope, rtol=1e-4, atol=1e-7)


def test_nothing_changes_the_weights():
    module = tiny()
    before = copy.deepcopy(module.state_dict())
    module.train()
    backbone = load_backbone(module)
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    frozen = copy.deepcopy(backbone.state_dict())
    backbone.train().requires_grad_(True)
    assert not any(layer.training for layer in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    pixels = images((64, 64)).requires_grad_()
    backbone(pixels).sum().backward()
    backbone.with_head(*head_for(backbone), NAMES).train()(pixels).sum().backward()
    assert all(torch.equal(value, frozen[name]) for name, value in backbone.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_convolutional_networks_take_any_size_and_fixed_grids_their_own():
    convolutional = load_backbone(tiny())
    assert convolutional.input_size(48, 80) == (48, 80)
    grid = load_backbone(timm_model("vit"))
    assert grid.size == (32, 32)
    assert grid.input_size(48, 80) == (32, 32)
    pixels = images((48, 80))
    resized = F.interpolate(pixels, (32, 32), mode="bilinear", antialias=True)
    assert torch.allclose(grid(pixels), grid(resized), atol=1e-6)


def test_image_size_sets_the_grid_or_resizes_every_image():
    by_name = load_backbone("timm/vit_tiny_patch16_224", pretrained=False, image_size=(64, 48))
    assert by_name.size == by_name.input_size(96, 96) == (64, 48)
    by_object = load_backbone(timm_model("vit"), image_size=48)
    assert by_object.size == (48, 48)
    convolutional = load_backbone(tiny(), image_size=96)
    assert convolutional.input_size(32, 32) == (96, 96)
    assert convolutional(images((32, 32))).shape == (2, 512)


def test_bfloat16_gives_features_in_the_dtype_of_the_images():
    model = timm_model("vit")
    exact, half = (load_backbone(model, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert next(half.parameters()).dtype == torch.bfloat16
    pixels = images((32, 32)).requires_grad_()
    features = half(pixels)
    assert features.dtype == torch.float32
    assert (features - exact(pixels)).norm() < 0.05 * exact(pixels).norm()
    features.sum().backward()
    assert half.fingerprint == exact.fingerprint


def test_normalization_is_the_models_own():
    model = tiny()
    assert load_backbone(model).normalization.mean == list(model.pretrained_cfg["mean"])
    with pytest.warns(BackboneWarning, match=r"0.5 are assumed.*pass `load_backbone\(module, norm"):
        backbone = load_backbone(ConvolutionalHead())
    assert backbone.normalization.mean == [0.5] * 3
    own = Normalization([0.1, 0.2, 0.3], [1, 1, 1])
    assert load_backbone(ConvolutionalHead(), normalization=own).normalization.mean == own.mean


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


def test_backbones_can_be_copied_and_made_again_in_equal():
    module = tiny()
    backbone, again = load_backbone(module), load_backbone(module)
    assert isinstance(copy.deepcopy(backbone), Backbone)
    assert again.fingerprint == backbone.fingerprint
    pixels = images((64, 64))
    assert torch.equal(copy.deepcopy(backbone)(pixels), again(pixels))


def test_wrong_images_and_heads_are_refused():
    backbone = load_backbone(tiny())
    with pytest.raises(BackboneError, match="`images` must be"):
        backbone(torch.rand(2, 1, 32, 32))
    weight, bias = head_for(backbone)
    with pytest.raises(BackboneError, match="`weight` must be"):
        backbone.with_head(weight[:, :3], bias, NAMES)
    with pytest.raises(BackboneError, match="for 2 classes"):
        backbone.with_head(weight, bias, NAMES[:2])


def test_a_backbone_is_taken_as_it_is():
    module = ConvolutionalHead().eval()
    made = load_backbone(module, feature_layer="body.0", normalization=HALF)
    again = load_backbone(made, dtype=torch.float64)
    assert again.feature_layer == made.feature_layer == "body.0"
    assert again.normalization is HALF
    assert again.fingerprint == made.fingerprint
    pixels = images(made.size)
    torch.testing.assert_close(again(pixels.double()).float(), made(pixels))
    assert next(made.parameters()).dtype == torch.float32
    own = Normalization([0.1, 0.2, 0.3], [1, 1, 1])
    assert load_backbone(made, normalization=own).normalization is own
    assert load_backbone(made, feature_layer="body.0").fingerprint == made.fingerprint
    for change in ({"feature_layer": "body.1"}, {"image_size": 5}, {"revision": "main"}):
        with pytest.raises(BackboneError, match="must be left out for a `Backbone`"):
            load_backbone(made, **change)


def test_convolutions_compute_with_channels_last_and_the_model_that_comes_out_does_not():
    network = timm.create_model("test_resnet", num_classes=5).eval()
    backbone = load_backbone(network, dtype=torch.float64)
    transformer = load_backbone(timm.create_model("test_vit", num_classes=5))
    assert (backbone.channels_last, transformer.channels_last) == (True, False)

    def layouts(model):
        weights = [m.weight for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
        wide = [w for w in weights if w.shape[1] > 1 and w.shape[2] > 1]
        return {w.is_contiguous(memory_format=torch.channels_last) for w in wide}

    assert layouts(backbone) == {True}
    assert layouts(network) == {False}
    d = backbone.num_features
    made = backbone.with_head(torch.randn(3, d), torch.zeros(3), ["a", "b", "c"])
    assert layouts(made) == {False}
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    features = backbone(images)
    backbone.channels_last = False
    backbone.to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(backbone(images), features)
