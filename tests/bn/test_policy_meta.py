"""Layers made on the meta device: every way of giving them values leaves a layer that works."""

import copy
import io
import pickle

import pytest
import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from timm.layers import EvoNorm2dB0
from torch import nn

from dd_plugin.bilevel import BilevelProblem, FunctionalModel
from dd_plugin.bn import convert_bn, revert_bn, tracking_tensors

STATISTICS = ("learned", "tracked", "frozen")


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def trained():
    model = network()
    for _ in range(3):
        model(torch.randn(8, 3, 2, 2))
    return model


def on_meta(statistics):
    with torch.device("meta"):
        return convert_bn(network(), statistics)


def assign(model, source):
    model.load_state_dict(source.state_dict(), assign=True)
    return model


def empty_then_copy(model, source):
    model = model.to_empty(device="cpu")
    model.load_state_dict(source.state_dict())
    return model


def one_by_one(model, source):
    """As Accelerate's loaders do, past `load_state_dict` and past the module's attributes."""
    for name, value in source.state_dict().items():
        set_module_tensor_to_device(model, name, "cpu", value=value)
    return model


def attributes(model, source):
    for name, value in source.state_dict().items():
        where, _, leaf = name.rpartition(".")
        module = model.get_submodule(where)
        setattr(module, leaf, nn.Parameter(value) if leaf in module._parameters else value)
    return model


@pytest.mark.parametrize("fill", [assign, empty_then_copy, one_by_one, attributes])
@pytest.mark.parametrize("statistics", STATISTICS)
def test_values_arrive_whatever_brings_them(statistics, fill):
    source = trained()
    model = fill(copy.deepcopy(on_meta(statistics)), source)
    x = torch.randn(4, 3, 2, 2)
    torch.testing.assert_close(model.eval()(x), source.eval()(x))
    torch.testing.assert_close(model.train()(x), source.train()(x))
    model.train()(x).sum().backward()
    assert all(t.device.type == "cpu" for t in [*model.parameters(), *model.buffers()])
    assert all(float(t) == 0 for t in tracking_tensors(model).values())
    again = network()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.eval()(x), model.eval()(x))
    stock = revert_bn(pickle.loads(pickle.dumps(model)))
    torch.testing.assert_close(stock.eval()(x), model.eval()(x))
    BilevelProblem(model)


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("buffers", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_accelerates_empty_weights(statistics, buffers, inside):
    with init_empty_weights(include_buffers=buffers):
        model = network()
        if inside:
            convert_bn(model, statistics)
    if not inside:
        convert_bn(model, statistics)
    source = trained()
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    model.load_state_dict(torch.load(file), assign=True)
    x = torch.randn(4, 3, 2, 2)
    torch.testing.assert_close(model.eval()(x), source.eval()(x))
    torch.testing.assert_close(model.train()(x), source.train()(x))
    torch.testing.assert_close(model.state_dict()["0.weight"], source.state_dict()["0.weight"])


def test_a_layer_without_a_mean_is_filled_too():
    with torch.device("meta"):
        layer = convert_bn(EvoNorm2dB0(3), "tracked")
    layer.load_state_dict(EvoNorm2dB0(3).state_dict(), assign=True)
    layer.train()(torch.randn(2, 3, 4, 4))
    assert layer.running_var.isfinite().all()


@pytest.mark.parametrize("statistics", [None, *STATISTICS])
def test_the_engine_says_that_a_model_has_no_values(statistics):
    with torch.device("meta"):
        model = network() if statistics is None else convert_bn(network(), statistics)
    with pytest.raises(ValueError, match=r"got '0\.weight' on the meta device .*load a checkpoint"):
        FunctionalModel(model)
    some = network()
    some[3].weight = nn.Parameter(some[3].weight.to("meta"))
    with pytest.raises(ValueError, match=r"got '3\.weight' on the meta device \(1 of 9 tensors\)"):
        BilevelProblem(some)
