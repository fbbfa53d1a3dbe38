import json

import pytest

from dd_plugin.data.recipe import Recipe


def recipe(**options):
    return Recipe(**{"shape": (1, 8, 8), "class_names": ("a", "b"), "steps": 3, **options})


def test_it_survives_json():
    own = recipe(batching="minibatches", batch_size=2, optimizer_args={"momentum": 0.9})
    assert Recipe.from_dict(json.loads(json.dumps(own.to_dict()))) == own
    assert own.num_classes == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "`steps` must be at least 1, got 0"),
        ({"batching": "some"}, "`batching` must be one of all, groups, minibatches, got 'some'"),
        ({"groups": 0}, "`groups` must be at least 1"),
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
