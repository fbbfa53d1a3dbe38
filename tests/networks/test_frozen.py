"""Backbones: frozen, copied whole, exact in their gradients, and strict about images and heads."""

import copy

import pytest
import timm
import torch

from dd_plugin.networks.backbones import load_backbone
from dd_plugin.networks.errors import BackboneError
from tests.networks.models import (
    NAMES,
    head_for,
    images,
    timm_model,
    tiny,
)


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


def test_wrong_images_and_heads_are_refused():
    backbone = load_backbone(tiny())
    with pytest.raises(BackboneError, match="`images` must be"):
        backbone(torch.rand(2, 1, 32, 32))
    weight, bias = head_for(backbone)
    with pytest.raises(BackboneError, match="`weight` must be"):
        backbone.with_head(weight[:, :3], bias, NAMES)
    with pytest.raises(BackboneError, match="for 2 classes"):
        backbone.with_head(weight, bias, NAMES[:2])


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
