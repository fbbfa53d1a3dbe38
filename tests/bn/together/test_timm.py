"""Converted models in the hands of timm, and of utilities that would undo a conversion."""

import copy

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, SyncBatchNormAct, freeze_batch_norm_2d
from timm.layers import convert_sync_batchnorm as timm_convert_sync_batchnorm
from timm.models import FeatureGraphNet
from timm.optim import param_groups_weight_decay
from timm.utils.model import reparameterize_model
from torch import nn

from dd_plugin.bn import (
    ConversionUndoneWarning,
    UnsupportedBatchNormError,
    convert_bn,
    converted_layers,
    revert_bn,
)
from tests.bn.networks import classes, images, policies, small_network, timm_model


def network_for(utility):
    """Torch's own utility drops the activation of timm's layers, converted or not."""
    return small_network(nn.BatchNorm2d if utility == "torch sync" else BatchNormAct2d)


@policies
def test_weight_decay_leaves_statistics_out(statistics):
    model = convert_bn(timm_model(), statistics)
    no_decay, decay = param_groups_weight_decay(model, weight_decay=0.1)
    assert no_decay["weight_decay"] == 0.0
    without = {id(p) for p in no_decay["params"]}
    statistic_names = [n for n, _ in model.named_parameters() if ".running_" in f".{n}"]
    assert bool(statistic_names) == (statistics == "learned")
    assert all(id(model.get_parameter(name)) in without for name in statistic_names)
    assert len(no_decay["params"]) + len(decay["params"]) == len(list(model.parameters()))


@policies
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_features_only(name, statistics):
    model = timm_model(name, features_only=True)
    expected = model(images())
    found = convert_bn(model, statistics)(images())
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert converted_layers(model)


def test_graph_feature_extraction():
    model = timm_model("test_efficientnet")
    expected = model.forward_intermediates(images(), indices=(0, 1), intermediates_only=True)
    extractor = FeatureGraphNet(convert_bn(model), (0, 1)).eval()
    for a, b in zip(extractor(images()), expected, strict=True):
        torch.testing.assert_close(a, b)
    assert converted_layers(extractor)


REPARAMETERIZED = ["repvgg_a0", "mobileone_s0", "fastvit_t8", "ghostnetv3_100", "repghostnet_050"]


@pytest.mark.parametrize("name", REPARAMETERIZED)
def test_reparameterized_after_conversion(name):
    model = timm_model(name)
    x = images(1, 64)
    expected = model(x)
    convert_bn(model, "learned" if name != "mobileone_s0" else "tracked")
    fused = reparameterize_model(model)
    assert len(converted_layers(fused)) < len(converted_layers(model))
    tolerance = 1e-4 * expected.abs().max().item()  # float32 through dozens of other sums
    torch.testing.assert_close(fused(x), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(model(x), expected)
    revert_bn(fused)
    torch.testing.assert_close(fused(x), expected, rtol=0, atol=tolerance)


@policies
def test_checkpoints_go_both_ways(statistics, tmp_path):
    model, path = timm_model(), str(tmp_path / "checkpoint.pth")
    torch.save({"state_dict": model.state_dict()}, path)
    converted = convert_bn(timm.create_model("test_resnet", num_classes=3), statistics)
    timm.models.load_checkpoint(converted, path, strict=True)
    assert torch.equal(converted.eval()(images()), model(images()))
    torch.save(converted.state_dict(), path)
    fresh = timm.create_model("test_resnet", num_classes=3, checkpoint_path=path)
    assert torch.equal(fresh.eval()(images()), model(images()))


UNDOING = {
    "timm freeze": freeze_batch_norm_2d,
    "timm sync": timm_convert_sync_batchnorm,
    "torch sync": nn.SyncBatchNorm.convert_sync_batchnorm,
}


@pytest.mark.parametrize("utility", UNDOING)
@policies
def test_conversion_undone_is_seen(utility, statistics):
    model = convert_bn(network_for(utility).eval(), statistics)
    expected = model(images())
    model = UNDOING[utility](model)
    assert len(converted_layers(model)) < 2
    again = copy.deepcopy(model)
    with pytest.warns(ConversionUndoneWarning, match=r"Call them before convert_bn\.$"):
        revert_bn(model)
    assert not converted_layers(model)
    assert not [n for n, _ in model.named_parameters() if "running_" in n]
    assert {"1.running_mean", "1.running_var"} <= {n for n, _ in model.named_buffers()}
    torch.testing.assert_close(model.eval()(images()), expected)
    convert_bn(model, statistics)
    torch.testing.assert_close(model.eval()(images()), expected)

    seen = pytest.warns(ConversionUndoneWarning, match="have been replaced since")
    if statistics == "learned" and "sync" in utility:
        # The statistics were copied as parameters, which is no layer of torch's.
        with seen, pytest.raises(UnsupportedBatchNormError, match="call revert_bn"):
            convert_bn(again)
    else:
        with seen:
            convert_bn(again, statistics)
        torch.testing.assert_close(again.eval()(images()), expected)


@pytest.mark.parametrize("utility", UNDOING)
@policies
def test_before_conversion_they_work(utility, statistics):
    model = UNDOING[utility](network_for(utility).eval()).eval()
    expected, stock = model(images()), classes(model)
    convert_bn(model, statistics)
    assert len(converted_layers(model)) == 2
    torch.testing.assert_close(model(images()), expected)
    assert classes(revert_bn(model)) == stock
    if utility == "timm sync":
        assert SyncBatchNormAct in stock
