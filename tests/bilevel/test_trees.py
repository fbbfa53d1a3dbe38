from collections import OrderedDict

import torch
from torch.utils import _pytree as pytree

from dd_plugin.bilevel.trees import RunState, StepInputs, leaves_of, rebuilt


def test_leaves_are_those_of_torch_and_go_back_to_their_places():
    a, b, c, d = (torch.zeros(i) for i in range(4))
    state = RunState({"w": a}, {"momentum": {"w": b}, "count": c}, {}, OrderedDict(n=d))
    inputs = StepInputs({"w": a}, {}, {}, {}, {}, b, c, [d, a])
    for tree in (a, state, inputs, (state, inputs), [], ({}, None), {"x": (a, [b, None])}):
        leaves = leaves_of(tree)
        expected = pytree.tree_leaves(tree)
        assert all(x is y for x, y in zip(leaves, expected, strict=True))
        numbered = rebuilt(tree, iter(range(len(leaves))))
        assert leaves_of(numbered) == list(range(len(leaves)))
        assert type(numbered) is type(tree) or tree is a
    assert rebuilt(state, iter(range(4))).optimizer == {"momentum": {"w": 1}, "count": 2}
