"""`dd_plugin.distiller.networks`: where inner runs start, and what a checkpoint keeps."""

import pytest
import torch
from torch import nn

from dd_plugin.bilevel import adam, hypergradient, sgd
from dd_plugin.bn import converted_layers
from dd_plugin.distiller.networks import Networks
from dd_plugin.models import ModelLoadError
from tests.distiller.networks import (
    CLASSES,
    SHAPE,
    equal,
    flat,
    make,
    networks,
)

# Where networks come from.


def test_module_is_one_fixed_start():
    model = make()
    runs = networks(model)
    assert (runs.mode, runs.statistics) == ("fixed", "tracked")
    first = runs.take(0, 0)
    assert equal(first, runs.take(7, 3))
    assert torch.equal(first.parameters["0.weight"], model[0].weight)
    # The user's own module is neither converted nor shared.
    assert type(model[1]) is nn.BatchNorm2d
    with torch.no_grad():
        model[0].weight.zero_()
    assert equal(first, runs.take(0, 0))


@pytest.mark.parametrize("mode", ["fixed", "random", "pool"])
def test_networks_are_functions_of_seed_step_and_index(mode):
    one = networks(mode=mode)
    torch.manual_seed(99)
    other = networks(mode=mode)
    for step, index in [(5, 1), (0, 0), (5, 0)]:
        assert equal(one.take(step, index), other.take(step, index))
    # Not of what was asked before.
    assert equal(networks(mode=mode).take(5, 1), one.take(5, 1))
    assert not equal(networks(mode=mode, seed=1).take(0, 0), one.take(0, 0))


def test_random_networks_differ_by_step_and_by_index():
    runs = networks()
    assert (runs.mode, runs.statistics) == ("random", "tracked")
    seen = [flat(runs.take(step, index)) for step in range(3) for index in range(3)]
    assert len(torch.unique(torch.stack(seen), dim=0)) == 9


def test_random_networks_have_the_distribution_of_the_model():
    # A weight of the linear layer is uniform in ±1/sqrt(16): standard deviation 1/(4 sqrt 3), over
    # 40 * 48 values known to 1.6 %.
    runs = networks()
    drawn = torch.cat([runs.take(step, 0).parameters["4.weight"].flatten() for step in range(40)])
    assert drawn.std().item() == pytest.approx(1 / (4 * 3**0.5), rel=0.08)


def test_by_name_classes_and_shape_are_filled_in():
    runs = Networks(
        "timm/dd_convnet",
        num_classes=4,
        shape=(1, 8, 12),
        model_args={"width": 4, "depth": 2, "norm_layer": "batchnorm2d"},
    )
    runs.problem(sgd())
    assert runs.redraws_in_place
    assert runs.take(0, 0).parameters["head.weight"].shape == (4, 4 * 2 * 3)
    assert len(runs.constants()) == 6
    with pytest.raises(ModelLoadError, match="takes no argument 'wdith'"):
        Networks("timm/dd_convnet", num_classes=4, shape=(3, 8, 8), model_args={"wdith": 4})


def test_dtype():
    runs = networks(dtype=torch.float64)
    state = runs.take(0, 0)
    assert {t.dtype for t in state.parameters.values()} == {torch.float64}
    assert state.counters["1.num_batches_tracked"].dtype == torch.int64


# The problem and what is learned.


def test_problem_is_made_once():
    runs = Networks(make, num_classes=CLASSES, shape=SHAPE)
    with pytest.raises(RuntimeError, match="call `problem` first"):
        runs.take(0, 0)
    optimizer = adam()
    problem = runs.problem(optimizer, outer_training=True)
    assert runs.problem() is problem
    assert runs.problem(optimizer, outer_training=True) is problem
    with pytest.raises(ValueError, match="another optimizer or other options"):
        runs.problem(sgd())


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"statistics": "learned"}, {"1.running_mean", "1.running_var"}),
        ({"mode": "fixed"}, {"1.momentum_shift", "1.mean_correction", "1.var_correction"}),
        ({}, {"1.momentum_shift", "1.mean_correction", "1.var_correction"}),
        ({"statistics": "frozen"}, set()),
        ({"statistics": "learned", "train_with": "running"}, set()),
    ],
)
def test_constants_are_what_the_policy_learns(options, names):
    runs = networks(**options)
    assert set(runs.constants()) == names
    held = runs.problem().model.constants
    assert all(held[name] is tensor for name, tensor in runs.constants().items())


def test_model_without_batch_norm():
    runs = networks(lambda: make(norm=False))
    assert runs.constants() == {}
    assert runs.take(0, 0).statistics == {}


@pytest.mark.parametrize("mode", ["fixed", "random", "pool"])
def test_states_run_in_the_engine(mode):
    runs = networks(mode=mode, dtype=torch.float64, optimizer=adam())
    images = torch.rand(3, *SHAPE, dtype=torch.float64)
    labels = torch.arange(3)
    state = runs.take(0, 0)
    result = hypergradient(
        runs.problem(),
        [(images, labels)] * 2,
        (images, labels),
        step_size=0.1,
        initial=state,
        constants=runs.constants(),
    )
    assert result.finite
    assert set(runs.constants()) <= set(result.constants)
    assert runs.give_back(0, result.final, 2) is (mode == "pool")


def test_buffers_that_training_moves_are_part_of_the_state():
    def spectral():
        model = make(norm=False)
        nn.utils.parametrizations.spectral_norm(model[4])
        return model

    runs = networks(spectral, dtype=torch.float64)
    assert any("_u" in name for name in runs.take(0, 0).statistics)


# Ordinary models of the same kind.


def test_new_model_is_converted_and_has_what_was_learned():
    runs = networks()
    learned = {name: torch.full_like(t, 0.25) for name, t in runs.constants().items()}
    model = runs.new_model(3, learned)
    assert [layer.statistics for layer in converted_layers(model).values()] == ["tracked"]
    assert model[1].mean_correction == 0.25
    assert torch.equal(model[0].weight, runs.new_model(3)[0].weight)
    assert not torch.equal(model[0].weight, runs.new_model(4)[0].weight)
    with pytest.raises(ValueError, match="which these networks do not have"):
        runs.new_model(3, {"nothing": torch.zeros(())})


def test_a_network_whose_train_returns_nothing_is_taken():
    class Detector(torch.nn.Sequential):
        def train(self, mode=True):
            super().train(mode)

    def make():
        return Detector(torch.nn.Flatten(), torch.nn.Linear(64, 3))

    networks = Networks(make, num_classes=3, shape=(1, 8, 8))
    assert networks.mode == "random"


# What a checkpoint keeps of networks.


def test_fixed_start_is_saved_with_the_run():
    first = networks(make())
    other = networks(make())
    assert not equal(first.take(0, 0), other.take(0, 0))
    other.load_state_dict(first.state_dict())
    assert equal(first.take(0, 0), other.take(0, 0))
    assert torch.equal(
        other.new_model(0).get_parameter("0.weight"), first.take(0, 0).parameters["0.weight"]
    )


def test_random_networks_have_nothing_to_save():
    assert networks().state_dict() == {}
