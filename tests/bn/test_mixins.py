"""Stock classes that do more, or less, than torch's BatchNorm2d: the same, converted."""

import copy

import pytest
import timm
import torch
from torch import nn
from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d

from dd_plugin.bn import convert_bn, revert_bn

TIMM = {
    "BatchNormAct2d": lambda: timm.layers.BatchNormAct2d(4, drop_layer=nn.Dropout),
    "BatchNormAct2d no act": lambda: timm.layers.BatchNormAct2d(4, apply_act=False),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(4),
    "SyncBatchNormAct": lambda: timm.layers.convert_sync_batchnorm(timm.layers.BatchNormAct2d(4)),
    "SplitBatchNorm2d": lambda: timm.layers.split_batchnorm.SplitBatchNorm2d(4),
    "SplitBatchNorm2d with act": lambda: timm.layers.convert_splitbn_model(
        timm.layers.BatchNormAct2d(4)
    ),
    "FrozenBatchNormAct2d": lambda: timm.layers.freeze_batch_norm_2d(timm.layers.BatchNormAct2d(4)),
    "FrozenBatchNorm2d": lambda: timm.layers.freeze_batch_norm_2d(nn.BatchNorm2d(4)),
    "DetrFrozenBatchNorm2d": lambda: DetrFrozenBatchNorm2d(4),
    "EvoNorm2dB0": lambda: timm.layers.EvoNorm2dB0(4),
    "EvoNorm2dB0 no act": lambda: timm.layers.EvoNorm2dB0(4, apply_act=False),
    "EvoNorm2dB1": lambda: timm.layers.EvoNorm2dB1(4),
    "EvoNorm2dB2": lambda: timm.layers.EvoNorm2dB2(4),
}


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("statistics", ["learned", "tracked", "frozen"])
def test_every_family_in_both_modes(name, statistics):
    theirs = TIMM[name]()
    with torch.no_grad():
        for key, tensor in theirs.state_dict().items():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5) if "var" in key else tensor.normal_()
    ours = convert_bn(copy.deepcopy(theirs), statistics)
    assert isinstance(ours, type(theirs))
    assert set(ours.state_dict()) == set(theirs.state_dict())
    x = torch.randn(4, 4, 3, 3)
    for training in (True, False):
        for model in (ours, theirs):
            torch.manual_seed(0)
            model.train(training)
        torch.manual_seed(0)
        expected = theirs(x.clone())
        if training and statistics == "tracked":
            expected_state = copy.deepcopy(theirs.state_dict())
        torch.manual_seed(0)
        torch.testing.assert_close(ours(x.clone()), expected, rtol=1e-5, atol=1e-5)
        if statistics == "tracked":
            torch.testing.assert_close(ours.state_dict(), expected_state)
        else:
            theirs.load_state_dict(ours.state_dict())
    if statistics == "learned":
        ours.eval()(x).square().sum().backward()
        unused = name == "EvoNorm2dB0 no act"  # without its activation it is only an affine
        assert (ours.running_var.grad is None) == unused
    revert_bn(ours)
    assert [type(m) for m in ours.modules()] == [type(m) for m in theirs.modules()]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("train_with", ["batch", "running"])
def test_frozen_layers_never_look_at_the_batch(train_with):
    layer = convert_bn(DetrFrozenBatchNorm2d(3), "tracked", train_with)
    x = torch.randn(2, 3, 2, 2)
    torch.testing.assert_close(layer.train()(x), layer.eval()(x))
    assert layer.running_mean.abs().sum() == 0
    assert layer.correction_names() == ["mean_correction", "var_correction"]
