"""Operations from plain formulas: right second derivatives and unchanged values.

Reference for every operation are central differences of torch's first derivative in float64 (step
1e-5: truncation about 1e-9, rounding about 1e-10, hence the tolerance 1e-6) and exact agreement of
forward over reverse with double backward.
"""

import inspect
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dd_plugin.bilevel.foreign_models.second_order import missing_rule_operation, second_order
from tests.bilevel.foreign_models.hessians import check_operation, check_values
from tests.bilevel.foreign_models.operations import REPLACED, TABLE, second_derivatives


@pytest.mark.parametrize("name", [n for n in TABLE if not n.startswith("grid_sample")])
def test_second_derivatives_are_right(name):
    check_operation(*TABLE[name])


@pytest.mark.parametrize("name", sorted(n for n in REPLACED if not n.startswith("grid_sample")))
def test_replaced_operations_keep_their_values(name):
    operation, inputs = TABLE[name]
    single = tuple(t.float() if t.is_floating_point() else t for t in inputs)
    if name.startswith(("nn.", "weight_norm, param")):
        single = inputs  # their modules are float64
    check_values(operation, single)


@pytest.mark.parametrize(
    "name",
    ["hardsigmoid", "cdist 2.0", "huber_loss", "attention, causal", "mse_loss of labels, mean"],
)
def test_the_help_is_needed(name):
    with pytest.raises((RuntimeError, NotImplementedError)) as raised:
        second_derivatives(*TABLE[name])
    assert missing_rule_operation(raised.value) is not None


def test_attention_details():
    q, k, v = (
        torch.randn(2, 2, 4, 8, generator=torch.Generator().manual_seed(i)) for i in (1, 2, 3)
    )
    mask = torch.ones(4, 4).bool().tril(-1)  # the first row is closed completely
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    with second_order():
        torch.testing.assert_close(
            F.scaled_dot_product_attention(q, k, v, attn_mask=mask), expected
        )
        halves = F.scaled_dot_product_attention(*(t.bfloat16() for t in (q, k, v)))
        assert halves.dtype == torch.bfloat16
        # Dropout at rate 1/2 keeps the mean: 4 weights of 1/4 are 1/2 or 0, their sum is 1 on
        # average; over 4096 rows its deviation is 0.5 / 64 = 0.008, and 0.05 is six of it.
        ones = torch.ones(1, 1, 4096, 1)
        keys = torch.ones(1, 1, 4, 1)
        torch.manual_seed(0)
        dropped = F.scaled_dot_product_attention(ones, keys, keys, dropout_p=0.5)
        assert set(dropped.unique().tolist()) <= {0.0, 0.5, 1.0, 1.5, 2.0}
        assert abs(dropped.mean().item() - 1.0) < 0.05
        with pytest.raises(ValueError, match="combine them"):
            F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=True)


def test_mse_loss_is_the_one_of_torch_in_everything_else():
    x, y = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), torch.eye(3, 5)
    losses = {
        "legacy": lambda: F.mse_loss(x, y, size_average=False),
        "module": lambda: nn.MSELoss()(x, y),
    }
    if "weight" in inspect.signature(F.mse_loss).parameters:
        losses["weight"] = lambda: F.mse_loss(x, y, weight=1 + y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # size_average is deprecated
        expected = {name: loss() for name, loss in losses.items()}
        with second_order():
            found = {name: loss() for name, loss in losses.items()}
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss, msg=name)
    with second_order(), pytest.warns(UserWarning, match="target size"):
        F.mse_loss(x, y[:1])


def test_hardsigmoid_in_place_writes_into_its_input():
    with second_order():
        x = torch.tensor([-4.0, 0.0, 1.5, 4.0])
        assert nn.Hardsigmoid(inplace=True)(x) is x
    torch.testing.assert_close(x, torch.tensor([0.0, 0.5, 0.75, 1.0]))
