"""`dd_plugin.choices`: one list of values, which the parts that use them agree with."""

from typing import get_args

import pytest

from dd_plugin import choices
from dd_plugin.bilevel.adjoints import method_of
from dd_plugin.bn.policy import STATISTICS, TRAIN_WITH
from dd_plugin.data.recipe import Recipe


def test_the_layer_has_them():
    assert get_args(choices.Statistics) == STATISTICS
    assert get_args(choices.TrainWith) == TRAIN_WITH


def test_the_engine_has_every_method():
    assert [method_of(name).name for name in get_args(choices.MethodName)] == [
        "mixed",
        "reverse",
        "autograd",
    ]


@pytest.mark.parametrize("name", ["init", "mixed_precision", "batching"])
def test_a_recipe_takes_them(name):
    kinds = {
        "init": choices.Init,
        "mixed_precision": choices.Precision,
        "batching": choices.Batching,
    }
    for value in get_args(kinds[name]):
        more = {"batch_size": 2} if value == "minibatches" else {}
        Recipe(shape=(1, 8, 8), class_names=("a", "b"), steps=1, **{name: value}, **more)
    with pytest.raises(ValueError, match=f"`{name}` must be one of"):
        Recipe(shape=(1, 8, 8), class_names=("a", "b"), steps=1, **{name: "other"})
