"""Sampling from a grid: derivatives and values as in `test_formulas`, and its messages."""

import pytest
import torch
import torch.nn.functional as F

from dd_plugin.bilevel.foreign_models.second_order import second_order
from tests.bilevel.foreign_models.hessians import check_operation, check_values
from tests.bilevel.foreign_models.operations import TABLE


def test_grid_sample_says_what_is_wrong():
    x = torch.zeros(1, 1, 3, 3)
    with second_order():
        with pytest.raises(ValueError, match="`input` and `grid`"):
            F.grid_sample(x, torch.zeros(1, 2, 2, 3))
        with pytest.raises(ValueError, match="`mode`"):
            F.grid_sample(x, torch.zeros(1, 2, 2, 2), mode="linear")


@pytest.mark.parametrize("name", [n for n in TABLE if n.startswith("grid_sample")])
def test_derivatives_are_right_and_values_are_kept(name):
    operation, inputs = TABLE[name]
    check_operation(operation, inputs)
    check_values(operation, [t.float() for t in inputs])
