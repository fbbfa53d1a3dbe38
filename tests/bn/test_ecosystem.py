"""Converted models in the hands of timm, torch's utilities, transformers, accelerate, safetensors.

Tiny models with random weights and statistics as after some training; nothing is downloaded.
"""

import copy

import pytest
import safetensors.torch
import timm
import torch
from accelerate import Accelerator
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from timm.layers import BatchNormAct2d, SyncBatchNormAct, freeze_batch_norm_2d
from timm.layers import convert_sync_batchnorm as timm_convert_sync_batchnorm
from timm.models import FeatureGraphNet
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from timm.utils.model import reparameterize_model
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

from dd_plugin.bn import (
    ConversionUndoneWarning,
    UnsupportedBatchNormError,
    convert_bn,
    converted_layers,
    revert_bn,
    tracking_tensors,
)
from dd_plugin.bn.policy import STATISTICS

policies = pytest.mark.parametrize("statistics", STATISTICS)


def trained(model):
    """The model, its BatchNorm statistics as no initialisation leaves them."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in [*model.named_buffers(), *model.named_parameters()]:
        if tensor.is_floating_point() and name.endswith(("running_mean", "running_var")):
            tensor.data = torch.rand(tensor.shape, generator=generator) + 0.5
    return model


def small_network(last=BatchNormAct2d):
    torch.manual_seed(0)
    return trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), last(4)))


def network_for(utility):
    """Torch's own utility drops the activation of timm's layers, converted or not."""
    return small_network(nn.BatchNorm2d if utility == "torch sync" else BatchNormAct2d)


def timm_model(name="test_resnet", **kwargs):
    torch.manual_seed(0)
    return trained(timm.create_model(name, num_classes=3, **kwargs)).eval()


def images(count=2, size=32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def classes(model):
    return [type(module) for module in model.modules()]


# --- timm --------------------------------------------------------------------------------------


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


# --- utilities that build new layers -----------------------------------------------------------

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


def test_update_bn_fills_tracked_statistics():
    stock, converted = small_network(), convert_bn(small_network(), "tracked")
    loader = [images(4), images(3) * 2 + 1, images(2) - 1]
    for model in (stock, converted):
        update_bn(loader, model)
    for name, value in stock.state_dict().items():
        torch.testing.assert_close(converted.state_dict()[name], value)
    assert converted[1].momentum == 0.1


@pytest.mark.parametrize("statistics", ["learned", "frozen"])
def test_update_bn_warns_where_nothing_fills(statistics):
    model = convert_bn(small_network(), statistics)
    with pytest.warns(UserWarning, match='no moving average refills them.*statistics="tracked"'):
        update_bn([images()], model)


# --- averaged models ---------------------------------------------------------------------------


def _step(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for training in (True, False):  # eval mode is where learned statistics get a gradient
        optimizer.zero_grad()
        model.train(training)(images(4)).square().mean().backward()
        optimizer.step()


@policies
def test_timm_ema(statistics):
    model = convert_bn(small_network(), statistics)
    start = {n: v.clone() for n, v in model.state_dict().items()}
    ema = ModelEmaV3(model, decay=0.75)
    _step(model)
    ema.update(model)
    for name, value in ema.module.state_dict().items():
        if value.is_floating_point():
            expected = 0.75 * start[name] + 0.25 * model.state_dict()[name]
            torch.testing.assert_close(value, expected, msg=name)
    assert classes(ema.module) == classes(model)
    y = ema.module.eval()(images())
    torch.testing.assert_close(revert_bn(ema.module)(images()), y)


@policies
@pytest.mark.parametrize("use_buffers", [False, True])
def test_torch_averaged_model(statistics, use_buffers):
    model = convert_bn(small_network(), statistics)
    averaged = AveragedModel(
        model, multi_avg_fn=get_ema_multi_avg_fn(0.75), use_buffers=use_buffers
    )
    averaged.update_parameters(model)  # the first one copies
    start = {n: v.clone() for n, v in model.state_dict().items()}
    _step(model)
    averaged.update_parameters(model)
    parameters = {n for n, _ in model.named_parameters()}
    for name, value in averaged.module.state_dict().items():
        if value.is_floating_point():
            now = model.state_dict()[name]
            if use_buffers or name in parameters:
                now = 0.75 * start[name] + 0.25 * now
            torch.testing.assert_close(value, now, msg=name)
    revert_bn(averaged)
    assert not converted_layers(averaged)


# --- transformers ------------------------------------------------------------------------------

CONFIG = {
    "embedding_size": 8,
    "hidden_sizes": [8, 8],
    "depths": [1, 1],
    "layer_type": "basic",
    "num_labels": 3,
}


def hub_model(cls=ResNetForImageClassification):
    torch.manual_seed(0)
    return trained(cls(ResNetConfig(**CONFIG))).eval()


class ConvertsItself(ResNetForImageClassification):
    statistics = "tracked"

    def __init__(self, config):
        super().__init__(config)
        convert_bn(self, self.statistics)


class ConvertsItselfLearned(ConvertsItself):
    statistics = "learned"


class ConvertsItselfFrozen(ConvertsItself):
    statistics = "frozen"


@policies
def test_saved_by_a_converted_model(statistics, tmp_path):
    model = convert_bn(hub_model(), statistics)
    expected = model(images()).logits
    model.save_pretrained(tmp_path)
    stock = ResNetForImageClassification.from_pretrained(tmp_path).eval()
    assert not converted_layers(stock)
    torch.testing.assert_close(stock(images()).logits, expected)
    again = convert_bn(stock, statistics)
    torch.testing.assert_close(again(images()).logits, expected)


@pytest.mark.parametrize("cls", [ConvertsItselfLearned, ConvertsItself, ConvertsItselfFrozen])
def test_loaded_by_a_model_that_converts_itself(cls, tmp_path):
    model = hub_model()
    expected = model(images()).logits
    model.save_pretrained(tmp_path)
    # Memory that is given back full of sevens, for whatever is left uninitialised.
    del [torch.full((), 7.0) for _ in range(10_000)][:]
    loaded = cls.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(images()).logits, expected)
    for scalar in tracking_tensors(loaded).values():
        assert scalar.item() == 0
    assert len(tracking_tensors(loaded)) == (18 if cls is ConvertsItself else 0)
    train_mode = loaded.train()(images()).logits
    torch.testing.assert_close(train_mode, hub_model().train()(images()).logits)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
@policies
def test_trainer(statistics, tmp_path):
    data = [{"pixel_values": x, "labels": i % 3} for i, x in enumerate(images(8))]
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=4,
        learning_rate=0.1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    weights = []
    for model in (hub_model(), convert_bn(hub_model(), statistics)):
        trainer = Trainer(model, arguments, train_dataset=data)
        assert trainer.train().global_step == 2
        weights.append(dict(model.named_parameters()))
    for name, weight in weights[0].items():  # train mode is the stock model's
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-4, atol=1e-5)
    trainer.save_model(tmp_path)
    stock = ResNetForImageClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(stock(images()).logits, model.eval()(images()).logits)


# --- accelerate, safetensors, moves ------------------------------------------------------------


@policies
def test_accelerate_prepare(statistics):
    model = convert_bn(small_network(), statistics)
    accelerator = Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    before = model[0].weight.clone()
    accelerator.backward(prepared(images(4)).square().mean())
    optimizer.step()
    assert not torch.equal(model[0].weight, before)
    revert_bn(accelerator.unwrap_model(prepared))
    assert not converted_layers(model)


def test_accelerate_hooks_on_a_layer():
    model = small_network()
    add_hook_to_module(model[1], ModelHook())
    with pytest.raises(UnsupportedBatchNormError, match=r"cannot convert '1'.*accelerate's hooks"):
        convert_bn(model)
    assert not converted_layers(model)
    remove_hook_from_module(model[1])
    convert_bn(model)
    expected = model.eval()(images())
    add_hook_to_module(model[1], ModelHook())
    with pytest.raises(UnsupportedBatchNormError, match=r"cannot revert '1'.*accelerate's hooks"):
        revert_bn(model)
    torch.testing.assert_close(model(images()), expected)
    remove_hook_from_module(model[1])
    torch.testing.assert_close(revert_bn(model)(images()), expected)


@policies
def test_safetensors(statistics, tmp_path):
    path = tmp_path / "model.safetensors"
    model, stock = convert_bn(small_network().eval(), statistics), small_network()
    safetensors.torch.save_model(model, str(path))
    for other in (stock, convert_bn(small_network(), statistics)):
        for buffer in other.buffers():
            buffer.zero_()
        assert safetensors.torch.load_model(other, str(path)) == (set(), [])
        torch.testing.assert_close(other.eval()(images()), model(images()))


@policies
def test_change_of_dtype(statistics):
    stock, model = small_network().eval(), convert_bn(small_network().eval(), statistics)
    for dtype in (torch.float64, torch.bfloat16, torch.float32):
        y = model.to(dtype)(images().to(dtype))
        assert {t.dtype for t in model.state_dict().values() if t.is_floating_point()} == {dtype}
        assert {t.dtype for t in tracking_tensors(model).values()} <= {dtype}
        assert torch.equal(y, stock.to(dtype)(images().to(dtype)))


@policies
def test_built_on_the_meta_device(statistics):
    reference = small_network().eval()
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), BatchNormAct2d(4))
        convert_bn(model, statistics)
    model.to_empty(device="cpu")
    model.load_state_dict(reference.state_dict())
    assert all(t.item() == 0 for t in tracking_tensors(model).values())
    assert torch.equal(model.eval()(images()), reference(images()))
    assert classes(revert_bn(model)) == classes(reference)
