"""Code that takes a layer apart: right while what is stored is what is used, refused otherwise."""

import copy

import pytest
import timm
import torch
from timm.layers import freeze_batch_norm_2d
from timm.models.levit import ConvNorm
from timm.utils.model import reparameterize_model
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.nn.utils import fusion

from dd_plugin.bn import convert_bn, converted_layers, learnable_class, revert_bn

STATISTICS = ("learned", "tracked", "frozen")


def used(model, statistics):
    """Converted, in eval mode, with statistics that differ from their first values."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
    return convert_bn(model, statistics).eval()


def corrected(model):
    """With statistics that are not the stored ones."""
    with torch.no_grad():
        for layer in converted_layers(model).values():
            if layer.statistics == "tracked":
                layer.mean_correction.fill_(0.1)
                layer.var_correction.fill_(-0.2)
            else:
                layer.running_var[0] *= -1
    return model


def conv_bn(pair):
    return fusion.fuse_conv_bn_eval(pair[0], pair[1])


def conv_bn_weights(pair):
    conv, bn = copy.deepcopy(pair)
    conv.weight, conv.bias = fusion.fuse_conv_bn_weights(
        conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
    )
    return conv


def linear_bn(pair):
    return fusion.fuse_linear_bn_eval(pair[0], pair[1])


def convolution():
    return nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), torch.randn(2, 3, 4, 4)


def linear():
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), torch.randn(5, 3)


def rebuilt_by_torch(pair):
    return nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(pair))


def rebuilt_by_timm(pair):
    return freeze_batch_norm_2d(copy.deepcopy(pair))


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize(
    ("make", "take_apart"),
    [
        (convolution, conv_bn),
        (convolution, conv_bn_weights),
        (linear, linear_bn),
        (convolution, rebuilt_by_torch),
        (convolution, rebuilt_by_timm),
    ],
)
def test_a_fused_layer_is_right_or_refused(make, take_apart, statistics):
    pair, x = make()
    pair = used(pair, statistics)
    with torch.no_grad():
        torch.testing.assert_close(take_apart(pair)(x), pair(x), rtol=1e-4, atol=1e-5)
    corrected(pair)
    with pytest.raises(RuntimeError, match=r"has a correction.*Call dd_plugin\.revert_bn\(model\)"):
        take_apart(pair)
    with torch.no_grad():
        fused = take_apart(revert_bn(copy.deepcopy(pair)))
        torch.testing.assert_close(fused(x), pair(x), rtol=1e-4, atol=1e-5)


def test_timms_reparameterization():
    model = timm.create_model("repvgg_a0", num_classes=3, width_factor=0.1)
    model = corrected(used(model, "tracked"))
    with pytest.raises(RuntimeError, match="revert_bn"):
        reparameterize_model(model)
    x = torch.randn(2, 3, 64, 64)
    y = model(x)
    fused = reparameterize_model(revert_bn(model))
    torch.testing.assert_close(fused(x), y, rtol=1e-3, atol=1e-3)


def test_a_fusion_in_a_models_own_code():
    layer = corrected(used(ConvNorm(3, 4), "learned"))  # LeViT's, timm's and others alike
    with pytest.raises(RuntimeError, match="revert_bn"):
        layer.fuse()


@pytest.mark.parametrize("statistics", STATISTICS)
def test_torch_fx_leaves_a_converted_layer_as_it_is(statistics):
    pair, x = convolution()
    pair = corrected(used(pair, statistics))
    torch.testing.assert_close(fuse(pair)(x), pair(x))


@pytest.mark.parametrize("statistics", STATISTICS)
def test_what_only_looks_at_a_layer_is_not_refused(statistics):
    pair, _ = convolution()
    layer = corrected(used(pair, statistics))[1]
    assert "eps=1e-05" in repr(layer)
    assert copy.deepcopy(layer).epsilon() == 1e-5
    for name in dir(layer):
        getattr(layer, name)
    assert hasattr(revert_bn(layer), "eps")
    assert type(layer) is nn.BatchNorm2d
    assert layer.eps == 1e-5


def test_eps_can_be_set():
    layer = convert_bn(nn.BatchNorm2d(3), "tracked").eval()
    x = torch.randn(2, 3, 4, 4)
    layer.eps = 0.5
    expected = nn.BatchNorm2d(3, eps=0.5).eval()
    torch.testing.assert_close(layer(x), expected(x))
    assert layer.eps == 0.5


class Scaled(nn.BatchNorm2d):
    """Has a use of its own for ``eps``, besides torch's."""

    def forward(self, input):
        return super().forward(input) * (1 + self.eps)


def test_a_forward_that_reads_eps_itself_goes_on():
    layer = corrected(used(Scaled(3), "tracked"))
    x = torch.randn(2, 3, 4, 4)
    y = layer(x)
    torch.testing.assert_close(revert_bn(layer)(x), y)
    assert not learnable_class(Scaled).guards_eps
