"""Averages of converted models: moving ones of weights, and statistics filled again."""

import pytest
import torch
from timm.utils import ModelEmaV3
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from dd_plugin.bn import convert_bn, converted_layers, revert_bn
from tests.bn.networks import classes, images, policies, small_network


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
