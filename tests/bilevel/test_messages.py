"""What messages say of a value, and the line that a warning is about."""

import warnings

import numpy as np
import pytest
import torch

from dd_plugin.bilevel.messages import describe, integer, level_of_caller


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(2, 3), "a tensor of shape (2, 3) and dtype torch.float32"),
        ((torch.zeros(()), "word"), "(a tensor of shape () and dtype torch.float32, str)"),
        ([1, 2, 3, 4], "list"),
        (torch.Tensor, "the class Tensor"),
        (None, "NoneType"),
    ],
)
def test_a_value_is_described(value, said):
    assert describe(value) == said


def test_whatever_counts_is_an_integer():
    for value in (3, np.int64(3), torch.tensor(3), True + 2):
        assert integer(value, "steps") == 3
    for value in (3.0, "3", None):
        with pytest.raises(TypeError, match="`steps` must be an integer, got"):
            integer(value, "steps")


def test_a_warning_is_about_the_line_outside_of_the_engine():
    with pytest.warns(UserWarning, match="said") as caught:
        warnings.warn("said", stacklevel=level_of_caller())
    assert caught[0].filename == __file__
