"""Fresh networks: functions of a seed alone, made for the classes and the size of some images."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from dd_plugin.bn import convert_bn
from dd_plugin.networks.fresh import (
    fresh_network,
    learnable_constants,
    made_from,
    network_maker,
)

ARGUMENTS = {"width": 4, "depth": 1, "norm_layer": "batchnorm2d"}


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))


def equal(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_network_is_a_function_of_its_seed():
    def drawing():
        model = linear()
        with torch.no_grad():
            model[1].bias[0] = random.random()
            model[1].bias[1] = float(np.random.rand())  # noqa: NPY002 - as a user might
        return model

    first = fresh_network(drawing, 5, 2, (1, 4, 4))
    torch.manual_seed(99)
    random.seed(99)
    state = torch.get_rng_state()
    assert equal(first, fresh_network(drawing, 5, 2, (1, 4, 4)))
    assert torch.equal(torch.get_rng_state(), state)
    assert not equal(first, fresh_network(drawing, 6, 2, (1, 4, 4)))


def test_a_name_is_made_for_the_images_and_its_arguments_go_first():
    model = fresh_network("timm/dd_convnet", 0, 3, (2, 4, 8), ARGUMENTS)
    assert model(torch.rand(1, 2, 4, 8)).shape == (1, 3)
    with_five = network_maker("timm/dd_convnet", 3, (2, 4, 8), {**ARGUMENTS, "num_classes": 5})
    assert with_five()(torch.rand(1, 2, 4, 8)).shape == (1, 5)


def test_of_a_module_there_is_a_copy_and_nothing_that_makes_more():
    module = linear()
    assert network_maker(module, 2, (1, 4, 4)) is None
    copied = fresh_network(module, 0, 2, (1, 4, 4))
    assert copied is not module
    assert equal(copied, module)
    with torch.no_grad():
        module[1].weight.zero_()
    assert not equal(copied, module)


def test_a_function_that_makes_something_else():
    with pytest.raises(TypeError, match=r"`model_init` must make an nn\.Module, got int from it"):
        made_from(lambda: 3, 0)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"statistics": "learned"}, {"1.running_mean", "1.running_var"}),
        ({"statistics": "learned", "train_with": "running"}, set()),
        ({"statistics": "tracked"}, {"1.momentum_shift", "1.mean_correction", "1.var_correction"}),
        ({"statistics": "frozen"}, set()),
    ],
    ids=["learned", "running", "tracked", "frozen"],
)
def test_what_can_be_learned_of_batch_norm(options, names):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    converted = convert_bn(model, **options)
    assert set(learnable_constants(converted)) == names
