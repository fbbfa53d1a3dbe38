"""Networks that a run cannot start from, told before it; and some that it can."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from dd_plugin.bilevel import sgd
from dd_plugin.distiller.network_checks import check_outputs
from dd_plugin.distiller.networks import Networks

SHAPE = (1, 4, 4)


def network():
    parts = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2)]
    return nn.Sequential(*parts)


def of_meta():
    with torch.device("meta"):
        return network()


def partly_of_meta():
    model = network()
    model[1].running_mean = model[1].running_mean.to("meta")
    return model


@pytest.mark.parametrize("make", [of_meta, partly_of_meta])
@pytest.mark.parametrize("mode", ["fixed", "random", "pool"])
def test_a_network_without_values_is_refused_with_what_to_do(make, mode):
    model_init = make() if mode == "fixed" else make
    with pytest.raises(
        ValueError, match=r"must have values.*on the meta device.*load a checkpoint"
    ):
        Networks(model_init, mode=mode, num_classes=2, shape=SHAPE)


def test_a_pruned_network_is_a_fixed_start_and_stays_pruned():
    model = network()
    prune.l1_unstructured(model[0], "weight", 0.5)
    networks = Networks(model, mode="fixed", num_classes=2, shape=SHAPE)
    fixed = networks.problem(sgd()).model.fixed
    state = networks.take(0, 0)
    torch.testing.assert_close(state.parameters["0.weight_orig"], model[0].weight_orig)
    assert float(fixed["0.weight_mask"].sum()) == 13  # of 27 weights, 14 are taken out


def silent(kind):
    """A class whose `train` (and so `eval`) sets the mode and returns nothing."""

    class Silent(kind):
        def train(self, mode=True):
            super().train(mode)

    return Silent


def test_the_trainer_s_check_takes_a_network_whose_train_returns_nothing():
    network = silent(nn.Sequential)(nn.Flatten(), nn.Linear(64, 2))
    check_outputs(network, torch.rand(2, 1, 8, 8), 2)
