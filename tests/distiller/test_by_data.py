"""`dd_plugin.distiller.by_data`: marks on the settings that nobody wrote down."""

import copy
import json
import pickle
from dataclasses import replace

import pytest
from transformers import HfArgumentParser

from dd_plugin.distiller import DistillerConfig
from dd_plugin.distiller.by_data import is_left_alone, marked, plain

VALUES = [300, "all", {"width": 32}, ["auto"]]


@pytest.mark.parametrize("value", VALUES)
def test_a_marked_value_is_like_any_other(value):
    one = marked(value)
    assert one == value
    assert is_left_alone(one)
    assert not is_left_alone(value)
    assert repr(one) == repr(value)
    assert json.loads(json.dumps(one)) == value
    assert type(plain(one)) is type(plain(value)) is type(value)


@pytest.mark.parametrize("value", VALUES)
def test_the_mark_stays_in_copies(value):
    for same in (copy.deepcopy(marked(value)), pickle.loads(pickle.dumps(marked(value)))):
        assert same == value
        assert is_left_alone(same)


def test_a_default_is_told_from_the_same_value_that_was_written_down():
    assert is_left_alone(DistillerConfig().max_steps)
    for written in (300, "300", 300.0):
        config = DistillerConfig(max_steps=written)
        assert config == DistillerConfig()
        assert not is_left_alone(config.max_steps)
        assert is_left_alone(config.inner_steps)
    assert not is_left_alone(DistillerConfig(batching="all").batching)
    assert not is_left_alone(DistillerConfig(trainable="all").trainable)


def test_other_settings_leave_the_marks_as_they_are():
    config = replace(DistillerConfig(max_steps=300), seed=3)
    assert is_left_alone(config.inner_steps)
    assert is_left_alone(config.model_args)
    assert not is_left_alone(config.max_steps)
    parser = HfArgumentParser(DistillerConfig)
    (parsed,) = parser.parse_args_into_dataclasses(["--inner_steps", "20"])
    assert is_left_alone(parsed.max_steps)
    assert not is_left_alone(parsed.inner_steps)


def test_a_recipe_chooses_no_less_by_the_data():
    config = DistillerConfig.from_recipe("cifar10_cpu_ipc1")
    assert not is_left_alone(config.max_steps)
    assert not is_left_alone(config.inner_steps)


def test_settings_in_files_have_no_marks():
    values = DistillerConfig().to_dict()
    assert not any(map(is_left_alone, values.values()))
    assert values == DistillerConfig(**values).to_dict()


def test_what_was_changed_in_place_was_written_down():
    arguments, names = marked({"width": 32}), marked(["auto"])
    assert is_left_alone(arguments)
    assert is_left_alone(copy.deepcopy(arguments))
    assert is_left_alone(pickle.loads(pickle.dumps(names)))
    arguments["width"] = 8
    names[:] = ["herding"]
    for changed in (arguments, names, copy.copy(arguments), pickle.loads(pickle.dumps(names))):
        assert not is_left_alone(changed)
        assert type(plain(changed)) in (dict, list)
