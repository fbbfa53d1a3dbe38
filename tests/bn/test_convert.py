"""convert_bn and revert_bn on whole models: what stays, there and back, and conversions undone."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import ResNetConfig
from transformers.models.resnet.modeling_resnet import ResNetForImageClassification

from dd_plugin.bn import (
    ConversionUndoneWarning,
    LearnableBatchNorm2d,
    LearnableStatistics,
    UnsupportedBatchNormError,
    convert_bn,
    converted_layers,
    plan_conversion,
    revert_bn,
)
from tests.bn.networks import nested


def test_everything_hanging_on_a_layer_stays():
    model = nested()
    layer = model[1].half().eval()
    layer.eps, layer.momentum = 1e-3, 0.3
    layer.weight.requires_grad_(False)
    calls = []
    layer.register_forward_hook(lambda *_: calls.append("forward"))
    optimizer = torch.optim.SGD([layer.bias], lr=1.0)
    kept = (id(layer), id(layer.weight), id(layer.bias), layer.running_mean.data_ptr())
    keys = list(model.state_dict())

    for act in (convert_bn, revert_bn):
        assert act(model) is model
        layer = model[1]
        assert kept == (id(layer), id(layer.weight), id(layer.bias), layer.running_mean.data_ptr())
        assert (layer.eps, layer.momentum, layer.training) == (1e-3, 0.3, False)
        assert (layer.weight.requires_grad, layer.bias.requires_grad) == (False, True)
        assert layer.running_mean.dtype == torch.float16
        layer(torch.randn(2, 4, 2, 2).half()).sum().backward()
        optimizer.step()
        assert set(model.state_dict()) == set(keys)
    assert calls == ["forward"] * 2
    assert list(model.state_dict()) == keys
    assert type(model[1]) is nn.BatchNorm2d
    assert (layer.bias < 0).all()


def test_the_root_may_be_a_batch_norm():
    layer = nn.BatchNorm2d(3)
    assert convert_bn(layer) is layer
    assert isinstance(layer, LearnableBatchNorm2d)
    assert type(revert_bn(layer)) is nn.BatchNorm2d


def test_converting_twice_changes_nothing():
    model = convert_bn(nested())
    parameters = {n: id(p) for n, p in model.named_parameters()}
    assert {n: id(p) for n, p in convert_bn(model).named_parameters()} == parameters


def test_another_policy_is_switched_to():
    model = convert_bn(nested(), "tracked")
    model[1].mean_correction.fill_(0.5)
    model[1].running_mean.fill_(2.0)
    x = torch.randn(2, 3, 5, 5)
    y = model.eval()(x)
    for policy in ("learned", "frozen", "tracked"):
        convert_bn(model, policy)
        assert {m.statistics for m in converted_layers(model).values()} == {policy}
        torch.testing.assert_close(model(x), y)
    # The correction was folded, and the new tracked layer starts from none.
    assert model[1].running_mean[0].item() == 3.0
    assert model[1].mean_correction.item() == 0.0


def test_a_shared_layer_stays_one_object():
    shared = nn.BatchNorm2d(4)
    model = nn.ModuleDict({"a": nn.Sequential(shared), "b": nn.Sequential(shared)})
    convert_bn(model)
    assert model["a"][0] is model["b"][0] is shared
    assert [*converted_layers(model)] == ["a.0"]
    # Any of its names selects it.
    plan = plan_conversion(model, include="b")
    assert [planned.names for planned in plan.layers] == [("a.0", "b.0")]


def test_layers_replaced_by_a_later_utility_are_pointed_out():
    model = convert_bn(timm.create_model("resnet10t", num_classes=2))
    timm.layers.freeze_batch_norm_2d(model.layer1)
    with pytest.warns(ConversionUndoneWarning, match=r"layer1.*FrozenBatchNorm.*before convert_bn"):
        convert_bn(model)


def test_a_timm_and_a_transformers_model_there_and_back():
    resnet = ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    )
    x = torch.randn(2, 3, 32, 32)
    for model in (timm.create_model("test_resnet", num_classes=3), resnet):
        reference = copy.deepcopy(model).eval()
        output = getattr(reference(x), "logits", None)
        expected = reference(x) if output is None else output
        convert_bn(model.eval())
        actual = getattr(model(x), "logits", None)
        torch.testing.assert_close(model(x) if actual is None else actual, expected)
        assert all(isinstance(m, LearnableStatistics) for m in converted_layers(model).values())
        reference.load_state_dict(model.state_dict(), strict=True)
        model.load_state_dict(reference.state_dict(), strict=True)
        revert_bn(model)
        assert [type(m) for m in model.modules()] == [type(m) for m in reference.modules()]


def test_revert_refuses_what_it_would_break():
    model = convert_bn(nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3)))
    model[1].forward = lambda x: x
    with pytest.raises(UnsupportedBatchNormError, match=r"cannot revert '1'.*remove the hook"):
        revert_bn(model)
    assert list(converted_layers(model)) == ["0", "1"]
    del model[1].forward
    parametrize.register_parametrization(model[1], "weight", nn.Identity())
    with pytest.raises(UnsupportedBatchNormError, match=r"cannot revert '1'.*remove_param"):
        revert_bn(model)
    assert list(converted_layers(model)) == ["0", "1"]
    parametrize.remove_parametrizations(model[1], "weight")
    assert [type(m) for m in revert_bn(model)] == [nn.BatchNorm2d, nn.BatchNorm2d]
    with pytest.raises(TypeError, match=r"`model` must be a torch.nn.Module, got str"):
        revert_bn("model")


def test_reverting_a_part_is_no_conversion_undone():
    model = convert_bn(nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm2d(3))))
    revert_bn(model[1])
    convert_bn(model)  # a warning would be an error here
    assert list(converted_layers(model)) == ["0", "1.0"]
    revert_bn(model[1])
    revert_bn(model)


def test_replaced_layers_are_seen_below_a_converted_part():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm2d(3)))
    convert_bn(model[1], "tracked")
    model[1][0] = nn.BatchNorm2d(3)
    with pytest.warns(ConversionUndoneWarning, match=r"'1\.0' for one is a BatchNorm2d now"):
        convert_bn(model)
    convert_bn(model)  # said once
    assert list(converted_layers(model)) == ["0", "1.0"]
