"""`dd_plugin.distiller.defaults`: the network and the settings of a run that names none."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dd_plugin.distiller import Distiller, DistillerConfig
from dd_plugin.distiller.by_data import is_left_alone, marked
from dd_plugin.distiller.defaults import (
    A_SECOND,
    BUDGET,
    COURSES,
    NETWORKS,
    Amounts,
    chosen_settings,
    default_arguments,
    evaluation_multiply_adds,
    run_multiply_adds,
)
from dd_plugin.distiller.saved_runs import SavedRun
from dd_plugin.distiller.setting_groups import DEFAULT_ARGUMENTS, DEFAULT_MODEL
from dd_plugin.models import load_model
from tests.distiller.toy import toy_config, toy_dataset


@pytest.mark.parametrize(
    ("shape", "classes", "width", "depth"),
    [
        ((1, 8, 8), 10, 32, 2),
        ((1, 28, 28), 10, 32, 3),
        ((3, 32, 32), 100, 128, 3),
        ((3, 64, 64), 2, 32, 4),
        ((3, 64, 200), 33, 64, 4),
        ((3, 128, 128), 1000, 128, 5),
        ((3, 224, 224), 5, 32, 5),
        ((1, 4, 4), 2, 32, 2),
        ((1, 2, 2), 2, 32, 1),
    ],
)
def test_depth_fits_the_images_and_width_the_classes(shape, classes, width, depth):
    arguments = default_arguments(shape, classes)
    assert arguments == {"width": width, "depth": depth, "norm_layer": "batchnorm2d"}
    network = load_model(
        DEFAULT_MODEL, num_classes=classes, in_chans=shape[0], img_size=shape[1:], **arguments
    )
    assert network(torch.rand(2, *shape)).shape == (2, classes)


def test_the_digits_are_a_case_of_the_rule():
    assert default_arguments((1, 8, 8), 10) == DEFAULT_ARGUMENTS


def test_a_run_takes_it_only_if_nothing_is_said_of_the_network(tmp_path):
    def arguments(**options):
        config = toy_config(tmp_path, **options)
        return dict(Distiller(None, config, toy_dataset(size=16)).synthetic.recipe.model_args)

    assert arguments(model_args=None) == default_arguments((1, 16, 16), 3)
    assert arguments(model_args={"width": 8}) == {"width": 8}
    assert arguments(model="timm/dd_lenet", model_args=None) == {}


# Of `timm/dd_convnet` with the arguments of the rule, and of ResNet-18 on 64x64.
DIGITS = Amounts(167_168, 1, classes=10, images=1_437, tested=360)
GRAY_28 = Amounts(3.25e6, 1, classes=10, images=480, tested=120)
THIRTY_CLASSES = Amounts(3.85e6, 1, classes=30, images=60, tested=30)
COLOR_64 = Amounts(15.93e6, 1, classes=10, images=100, tested=20)
RESNET_32 = Amounts(37.0e6, 1, classes=10, images=100, tested=20)
CIFAR = Amounts(3.84e6, 1, classes=10, images=50_000, tested=10_000)


def chosen(amounts, **options):
    return chosen_settings(DistillerConfig(dataset="x", **options), amounts)


def with_chosen(amounts, **options):
    config = DistillerConfig(dataset="x", **options)
    vars(config).update(chosen_settings(config, amounts))
    return config


def seconds(config, amounts):
    """Of one core, by the estimate of the rule."""
    run, rest = run_multiply_adds(config, amounts), evaluation_multiply_adds(config, amounts)
    return (run + rest) / A_SECOND


amounts_of = st.builds(
    Amounts,
    multiply_adds=st.floats(1e4, 1e10),
    architectures=st.integers(1, 3),
    classes=st.integers(1, 1_000),
    images=st.none() | st.integers(1, 10**6),
    tested=st.none() | st.integers(0, 10**5),
)


@pytest.mark.parametrize("per_class", [1, 2, 10])
def test_the_digits_have_the_settings_that_the_help_shows(per_class):
    assert chosen(DIGITS, images_per_class=per_class) == {}


@pytest.mark.parametrize("amounts", [GRAY_28, THIRTY_CLASSES, COLOR_64, RESNET_32, CIFAR])
def test_a_default_run_takes_ten_minutes_of_a_core_at_most(amounts):
    assert seconds(with_chosen(amounts), amounts) <= 600
    assert seconds(DistillerConfig(dataset="x"), amounts) > 300


def test_what_is_chosen():
    assert chosen(COLOR_64) == {
        "max_steps": 150,
        "inner_steps": 10,
        "eval_steps": 50,
        "save_steps": 50,
        "final_eval_networks": 3,
        "eval_networks": 2,
    }
    assert chosen(RESNET_32)["baselines"] == ["random_real"]


def test_steps_that_are_not_traced_are_fewer():
    eager = replace(DIGITS, is_traced=False)
    settings = chosen(eager)
    assert settings["max_steps"] * settings["inner_steps"] <= 3_000
    assert seconds(with_chosen(eager), eager) <= 600
    assert seconds(DistillerConfig(dataset="x"), eager) > 600


def test_a_network_of_ones_own_counts_as_not_traced(tmp_path, monkeypatch):
    monkeypatch.setattr("dd_plugin.distiller.defaults.BUDGET", 30 * A_SECOND)

    def steps(model, **options):
        config = DistillerConfig(output_dir=str(tmp_path), model_args=None, **options)
        made = Distiller(model, config, toy_dataset(size=16))
        return made.config.max_steps * made.config.inner_steps

    def network():
        return load_model(
            "timm/dd_convnet", width=8, depth=2, in_chans=1, img_size=(16, 16), num_classes=3
        )

    assert steps(network) < steps(network, compile="trace")
    assert steps(network, compile="trace") <= steps(None)


@given(amounts_of)
def test_a_run_is_within_the_budget_or_the_shortest_there_is(amounts):
    config = with_chosen(amounts)
    shortest = COURSES[-1].max_steps, COURSES[-1].inner_steps
    assert (config.max_steps, config.inner_steps) == shortest or (
        run_multiply_adds(config, amounts) <= BUDGET
    )
    fewest = NETWORKS[-1].final_eval_networks
    assert config.final_eval_networks == fewest or (
        evaluation_multiply_adds(config, amounts) <= BUDGET
    )


@given(amounts_of, st.floats(1, 1e4))
def test_a_larger_network_never_gets_more_of_anything(amounts, times):
    larger = replace(amounts, multiply_adds=amounts.multiply_adds * times)
    small, large = with_chosen(amounts), with_chosen(larger)
    for name in ("max_steps", "inner_steps", "real_batch_size", "eval_steps", "save_steps"):
        assert getattr(large, name) <= getattr(small, name)


@given(amounts_of, st.integers(1, 50))
def test_every_image_is_trained_on_twice_in_a_run(amounts, per_class):
    config = with_chosen(amounts, images_per_class=per_class)
    images = per_class * amounts.classes
    if config.batching == "groups":
        assert per_class % config.groups == 0
        assert config.inner_steps >= 2 * config.groups
    elif config.batching == "minibatches":
        assert config.inner_steps * config.batch_size >= 2 * images
        assert 100 <= config.batch_size < images
    else:
        assert images <= max(100, 2 * images / config.inner_steps + 1)


def test_many_images_are_trained_on_in_groups():
    amounts = replace(THIRTY_CLASSES, images=900)
    assert chosen(amounts, images_per_class=10)["groups"] == 5
    assert "batching" not in chosen(amounts, images_per_class=3)
    # No groups of whole classes are small enough.
    many = replace(CIFAR, classes=150)
    assert chosen(many)["batch_size"] == 100


@given(amounts_of)
def test_what_was_written_down_stays(amounts):
    written = {
        "max_steps": 300,
        "inner_steps": 20,
        "real_batch_size": 256,
        "eval_steps": 100,
        "save_steps": 100,
        "eval_networks": 3,
        "final_eval_networks": 5,
        "batching": "all",
        "baselines": ["auto"],
    }
    assert chosen(amounts, **written) == {}
    for name, value in written.items():
        assert name not in chosen(amounts, **{name: value})


def test_more_steps_than_the_rule_has_make_a_longer_run():
    assert chosen(COLOR_64, max_steps=5_000)["inner_steps"] == 10
    assert "eval_steps" not in chosen(COLOR_64, max_steps=5_000)


def test_settings_that_belong_together_stay_together():
    window = {"window": "last", "window_length": 20}
    assert "inner_steps" not in chosen(COLOR_64, **window)
    assert "inner_steps" not in chosen(COLOR_64, init="pool", **window)
    for own in ({"batching": "all"}, {"batching": "groups", "groups": 1}):
        assert "batch_size" not in chosen(replace(CIFAR, classes=150), **own)


def test_a_gpu_shortens_nothing_here():
    for amounts in (COLOR_64, RESNET_32):
        assert chosen(replace(amounts, on_gpu=True)) == {}


def test_a_frozen_network_only_makes_the_run_shorter():
    of_224 = replace(COLOR_64, multiply_adds=1.8e9)
    settings = chosen(of_224, trainable="head")
    assert set(settings) == {"max_steps", "eval_steps", "save_steps"}
    assert chosen(replace(COLOR_64, multiply_adds=2e8), trainable="head") == {}


def test_the_rule_comes_out_the_same_for_what_came_out_of_it():
    for amounts in (COLOR_64, RESNET_32, replace(CIFAR, classes=150)):
        config = with_chosen(amounts)
        assert chosen_settings(config, amounts) == {}
        # And the digits are then as they are.
        other = copy.copy(config)
        vars(other).update(chosen_settings(config, DIGITS))
        assert other.max_steps == 300


def test_a_run_records_what_was_chosen_and_leaves_the_settings_to_other_data(tmp_path, monkeypatch):
    monkeypatch.setattr("dd_plugin.distiller.defaults.BUDGET", 3e7)
    config = toy_config(tmp_path, inner_steps=DistillerConfig().inner_steps)
    distiller = Distiller(None, config, toy_dataset())
    assert config.inner_steps == 20
    assert distiller.config.inner_steps == 5
    assert is_left_alone(distiller.config.inner_steps)
    assert distiller.synthetic.recipe.steps == 5
    assert distiller.config.to_dict()["inner_steps"] == 5


def test_a_resumed_run_goes_on_with_what_was_chosen(tmp_path, monkeypatch):
    def run(folder, **options):
        left_alone = {"inner_steps": DistillerConfig().inner_steps, **options}
        config = toy_config(tmp_path / folder, save_steps=2, **left_alone)
        return Distiller(None, config, toy_dataset())

    with monkeypatch.context() as small:
        small.setattr("dd_plugin.distiller.defaults.BUDGET", 3e7)
        whole = run("whole")
        whole.train()
        checkpoint = tmp_path / "whole" / "checkpoint-2"
        again = run("again")
        again.train(checkpoint)
        assert torch.equal(again.synthetic.images(), whole.synthetic.images())
    # Without the rule: the settings are those of the checkpoint.
    saved = SavedRun.at(checkpoint).config({})
    assert saved.inner_steps == 5
    assert not is_left_alone(saved.inner_steps)
    resumed = Distiller(None, saved, toy_dataset())
    assert resumed.config == saved
    with pytest.warns(UserWarning, match="goes back to step 2"):
        resumed.train()
    assert torch.equal(resumed.synthetic.images(), whole.synthetic.images())
    with pytest.raises(ValueError, match=r"inner_steps: 5 then, \d+ now"):
        run("other").train(tmp_path / "whole" / "left-checkpoint-4")


def test_images_that_are_passed_have_their_own_network(tmp_path):
    distiller = Distiller(
        None,
        DistillerConfig(output_dir=str(tmp_path), save_steps=0),
        toy_dataset(size=16),
    )
    arguments = default_arguments((1, 16, 16), 3)
    assert dict(distiller.synthetic.recipe.model_args) == arguments
    assert distiller.config.model_args == arguments


def test_what_was_chosen_for_some_data_is_chosen_anew_for_others():
    many = replace(CIFAR, classes=150)
    config = with_chosen(many)
    assert config.batching == "minibatches"
    chosen_again = chosen_settings(config, DIGITS)
    assert chosen_again["batching"] == "all"
    assert chosen_again["batch_size"] is None
    # Neither is held against a user who changes another setting.
    for changes in ({"images_per_class": 3}, {"trainable": "head"}):
        replace(config, **changes)
    grouped = replace(DistillerConfig(images_per_class=20), batching=marked("groups"))
    grouped.groups = marked(2)
    assert replace(grouped, images_per_class=21).images_per_class == 21
