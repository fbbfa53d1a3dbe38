"""convert_bn and revert_bn on whole models: what is found, what stays, what is refused."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import ResNetConfig
from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d
from transformers.models.resnet.modeling_resnet import ResNetForImageClassification

from dd_plugin.bn import (
    ConversionUndoneWarning,
    LearnableBatchNorm2d,
    LearnableStatistics,
    NoBatchNormFoundError,
    UnsupportedBatchNormError,
    convert_bn,
    converted_layers,
    plan_conversion,
    revert_bn,
)


def small():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4), nn.GroupNorm(2, 4))
    )


def test_everything_hanging_on_a_layer_stays():
    model = small()
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
    model = convert_bn(small())
    parameters = {n: id(p) for n, p in model.named_parameters()}
    assert {n: id(p) for n, p in convert_bn(model).named_parameters()} == parameters


def test_another_policy_is_switched_to():
    model = convert_bn(small(), "tracked")
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


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"include": "1"}, ["1"]),
        ({"include": "2"}, ["2.0"]),
        ({"include": ["1", "2.*"]}, ["1", "2.0"]),
        ({"exclude": "2"}, ["1"]),
        ({"include": "*", "exclude": "1"}, ["2.0"]),
    ],
)
def test_selection_by_name(selection, expected):
    model = convert_bn(small(), **selection)
    assert [*converted_layers(model)] == expected


def test_no_batch_norm_names_the_norms_there_are():
    model = nn.Sequential(nn.GroupNorm(1, 3), nn.LayerNorm(3), nn.LayerNorm(3))
    with pytest.raises(NoBatchNormFoundError, match=r"1 GroupNorm, 2 LayerNorm.*missing_ok"):
        convert_bn(model)
    assert convert_bn(model, missing_ok=True) is model
    assert issubclass(NoBatchNormFoundError, ValueError)


def test_a_pattern_that_matches_nothing_is_told():
    with pytest.raises(NoBatchNormFoundError, match=r"'layer9'.*are: 1, 2\.0"):
        convert_bn(small(), include=["1", "layer9"])


class OwnForward(nn.BatchNorm2d):
    def forward(self, x):
        return nn.functional.batch_norm(x, None, None, self.weight, self.bias, True)


class CallsSuper(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


def parametrized():
    layer = nn.BatchNorm2d(4)
    parametrize.register_parametrization(layer, "weight", nn.Identity())
    return layer


def hooked():
    layer = nn.BatchNorm2d(4)
    original = layer.forward
    layer.forward = lambda x: original(x)
    return layer


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OwnForward(4), r"OwnForward.*forward of its own.*exclude"),
        (nn.LazyBatchNorm2d, r"lazy.*run one batch"),
        (lambda: torch.jit.script(nn.BatchNorm2d(4)), r"TorchScript.*after revert_bn"),
        (parametrized, r"parametrizations.*remove_parametrizations"),
        (hooked, r"forward was replaced.*remove the hook"),
        (lambda: nn.DataParallel(nn.BatchNorm2d(4)), r"wrapped in DataParallel.*model\.module"),
    ],
)
def test_a_model_that_cannot_be_converted_is_untouched(make, message):
    model = nn.Sequential(nn.BatchNorm2d(4), make())
    classes = [type(m) for m in model.modules()]
    with pytest.raises(UnsupportedBatchNormError, match=message):
        convert_bn(model)
    assert [type(m) for m in model.modules()] == classes
    assert not isinstance(model[0].running_mean, nn.Parameter)


def test_a_subclass_that_calls_super_keeps_its_forward():
    theirs = CallsSuper(3)
    ours = convert_bn(copy.deepcopy(theirs), "tracked")
    assert isinstance(ours, CallsSuper)
    x = torch.randn(4, 3, 2, 2)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    assert type(revert_bn(ours)) is CallsSuper


@pytest.mark.parametrize("model", [None, "resnet18", nn.BatchNorm2d])
def test_something_that_is_no_module(model):
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        convert_bn(model)


def test_layers_replaced_by_a_later_utility_are_pointed_out():
    model = convert_bn(timm.create_model("resnet10t", num_classes=2))
    timm.layers.freeze_batch_norm_2d(model.layer1)
    with pytest.warns(ConversionUndoneWarning, match=r"layer1.*FrozenBatchNorm.*before convert_bn"):
        convert_bn(model)


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
