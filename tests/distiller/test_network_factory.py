"""`dd_plugin.distiller.network_factory`: fresh networks by a seed, and functions that make none."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from tests.distiller.networks import (
    CLASSES,
    Handmade,
    equal,
    flat,
    make,
    networks,
)


def test_generators_of_the_caller_are_left_alone():
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - it is the global one that is looked at

    def drawing():
        random.random()
        np.random.rand()  # noqa: NPY002
        return make()

    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1])  # noqa: NPY002
    runs = networks(drawing)
    runs.take(0, 0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert np.array_equal(before[2], np.random.get_state()[1])  # noqa: NPY002


def test_factory_that_draws_with_numpy_and_python():
    def drawing():
        model = make(norm=False)
        with torch.no_grad():
            model[4].bias[0] = random.random()
            model[4].bias[1] = float(np.random.rand())  # noqa: NPY002
        return model

    first, again = networks(drawing), networks(drawing)
    assert equal(first.take(3, 1), again.take(3, 1))
    assert not first.redraws_in_place


@pytest.mark.parametrize(("model_init", "in_place"), [(make, True), (Handmade, False)])
def test_redrawing_in_place_only_where_it_is_making_anew(model_init, in_place):
    runs = networks(model_init)
    assert runs.redraws_in_place is in_place
    drawn = runs.take(4, 2)
    runs._factory._scratch = None
    assert equal(drawn, runs.take(4, 2))


def test_state_is_a_copy_of_the_redrawn_model():
    runs = networks()
    first = runs.take(0, 0)
    before = flat(first).clone()
    runs.take(1, 0)
    assert torch.equal(before, flat(first))


class Wrapped(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.scale = nn.Parameter(torch.rand(1))

    def forward(self, x):
        return self.backbone(x) * self.scale


CAPTURED = make(norm=False)


def seeded():
    torch.manual_seed(0)
    return make(norm=False)


def partly_frozen():
    model = make(norm=False)
    model[0].requires_grad_(False)
    return model


def of_any_width():
    width = int(torch.randint(4, 1000, ()))
    return nn.Sequential(nn.Flatten(), nn.Linear(32, width), nn.Linear(width, CLASSES))


@pytest.mark.parametrize(
    ("model_init", "text"),
    [
        (lambda: CAPTURED, "a new network each time .* the same one twice"),
        (lambda: Wrapped(CAPTURED), "two that share parameters"),
        (seeded, "two have the same weights"),
        (partly_frozen, "'0.weight' is not trained, yet it differs"),
        (of_any_width, "one architecture, but '1.weight' has shape"),
    ],
)
def test_factories_that_make_no_fresh_networks(model_init, text):
    with pytest.raises(ValueError, match=text):
        networks(model_init)


def test_shared_parts_are_fine_for_a_fixed_start():
    assert networks(lambda: make(norm=False), mode="fixed").take(0, 0)
