from collections import OrderedDict

import pytest
import torch
from torch.utils import _pytree as pytree

from dd_plugin.bilevel.step_values import (
    RunState,
    StepInputs,
    leaves_of,
    rebuilt,
    tree_map,
    tree_map_only,
)


def test_leaves_are_those_of_torch_and_go_back_to_their_places():
    a, b, c, d = (torch.zeros(i) for i in range(4))
    state = RunState({"w": a}, {"momentum": {"w": b}, "count": c}, {}, OrderedDict(n=d))
    inputs = StepInputs(
        parameters={"w": a},
        statistics={},
        counters={},
        constants={},
        fixed={},
        images=b,
        labels=c,
        noise=[d, a],
    )
    for tree in (a, state, inputs, (state, inputs), [], ({}, None), {"x": (a, [b, None])}):
        leaves = leaves_of(tree)
        expected = pytree.tree_leaves(tree)
        assert all(x is y for x, y in zip(leaves, expected, strict=True))
        numbered = rebuilt(tree, iter(range(len(leaves))))
        assert leaves_of(numbered) == list(range(len(leaves)))
        assert type(numbered) is type(tree) or tree is a
    assert rebuilt(state, iter(range(4))).optimizer == {"momentum": {"w": 1}, "count": 2}


def test_a_map_matches_dictionaries_by_name_and_keeps_every_kind_of_container():
    one = RunState({"a": 1.0, "b": 2.0}, {"m": [3.0, (4.0,)]}, {}, {"n": None})
    other = RunState({"b": 20.0, "a": 10.0}, {"m": [30.0, (40.0,)]}, {}, {"n": 5})
    found = tree_map(lambda x, y: (x or 0) + y, one, other)
    assert found == RunState({"a": 11.0, "b": 22.0}, {"m": [33.0, (44.0,)]}, {}, {"n": 5})
    assert type(found) is RunState
    assert type(found.optimizer["m"][1]) is tuple
    assert leaves_of(found) == leaves_of(tree_map(lambda x: x, found))
    with pytest.raises(ValueError, match="zip"):
        tree_map(lambda x, y: x, [1, 2], [1])
    with pytest.raises(KeyError):
        tree_map(lambda x, y: x, {"a": 1}, {"b": 1})


def test_a_map_of_one_kind_leaves_the_others():
    tree = {"a": torch.ones(2), "b": [3, None, torch.zeros(1)]}
    found = tree_map_only(torch.Tensor, lambda t: t.shape, tree)
    assert found == {"a": (2,), "b": [3, None, (1,)]}
