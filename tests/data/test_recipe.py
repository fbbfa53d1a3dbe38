import json

import pytest
import torch

from dd_plugin.bilevel.optimizers import OPTIMIZERS
from dd_plugin.data.recipe import Recipe, check_optimizer


def recipe(**options):
    return Recipe(**{"shape": (1, 8, 8), "class_names": ("a", "b"), "steps": 3, **options})


def test_it_survives_json():
    own = recipe(batching="minibatches", batch_size=2, optimizer_args={"momentum": 0.9})
    assert Recipe.from_dict(json.loads(json.dumps(own.to_dict()))) == own
    assert own.num_classes == 2


def test_step_sizes_by_parameter():
    own = recipe(step_size_parameters=("w", "b"))
    assert Recipe.from_dict(json.loads(json.dumps(own.to_dict()))) == own
    optimizer, zero = own.make_optimizer(), torch.zeros(())
    ones = {"w": zero + 1, "b": zero + 1}
    moved, _ = optimizer.update(ones, optimizer.init(ones), ones, {"w": zero + 1, "b": zero})
    assert (float(moved["w"]), float(moved["b"])) == (0.0, 1.0)
    older = {k: v for k, v in own.to_dict().items() if k != "step_size_parameters"}
    assert Recipe.from_dict(older).step_size_parameters is None


def test_precision_and_what_older_recipes_have_of_it():
    assert (recipe().mixed_precision, recipe().autocast) == ("no", None)
    own = recipe(mixed_precision="bf16")
    assert Recipe.from_dict(own.to_dict()).autocast == torch.bfloat16
    older = {k: v for k, v in own.to_dict().items() if k != "mixed_precision"}
    assert Recipe.from_dict(older).autocast is None


def test_augmentations_per_step_are_written_only_where_there_are_several():
    # Version 0.1.0 refuses a recipe with a key that it does not know.
    assert "augmentations_per_step" not in recipe().to_dict()
    assert Recipe.from_dict(recipe().to_dict()).augmentations_per_step == 1
    own = recipe(augmentations_per_step=3)
    assert own.to_dict()["augmentations_per_step"] == 3
    assert Recipe.from_dict(json.loads(json.dumps(own.to_dict()))) == own


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augmentations_per_step": 0}, "`augmentations_per_step` must be at least 1, got 0"),
        ({"steps": 0}, "`steps` must be at least 1, got 0"),
        ({"batching": "some"}, "`batching` must be one of all, groups, minibatches, got 'some'"),
        ({"groups": 0}, "`groups` must be at least 1"),
        ({"mixed_precision": "fp16"}, "`mixed_precision` must be one of no, bf16, got 'fp16'"),
        ({"batch_size": 3}, "`batch_size` must be given with"),
        ({"batching": "minibatches"}, "`batch_size` must be given with"),
        ({"batching": "minibatches", "batch_size": 0}, "`batch_size` must be at least 1"),
    ],
)
def test_impossible_values(options, message):
    with pytest.raises(ValueError, match=message):
        recipe(**options)


def test_unknown_and_missing_keys():
    with pytest.raises(ValueError, match=r"has \['nonsense'\], which this version does not know"):
        Recipe.from_dict({**recipe().to_dict(), "nonsense": 1})
    with pytest.raises(ValueError, match=r"must have \['steps'\]"):
        Recipe.from_dict({"shape": [1, 8, 8], "class_names": ["a"]})


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer_is_possible_without_arguments(optimizer):
    # So a run with no `inner_optimizer_args` need not try it.
    check_optimizer(optimizer, {})


@pytest.mark.parametrize("arguments", [{"momentom": 0.9}, {"momentum": "much"}])
def test_impossible_arguments_of_an_optimizer(arguments):
    with pytest.raises(ValueError, match="`inner_optimizer_args` are not possible for sgd: "):
        check_optimizer("sgd", arguments)
