"""`foreign_models.pooling`: average pooling as sums and products, where windows tile the input."""

import pytest
import torch
from torch import nn
from torch.func import grad, jvp
from torch.nn import functional as F

from dd_plugin.bilevel import second_order
from dd_plugin.bilevel.foreign_models import pooling

POOLS = [
    (nn.AvgPool2d(2), True),
    (nn.AvgPool2d((1, 3)), True),
    (nn.AvgPool2d((3, 1)), True),
    (nn.AvgPool2d((3, 2), (3, 2)), True),
    (nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False), True),
    (nn.AvgPool2d(3, 2, 1), False),
    (nn.AvgPool2d(2, 1), False),
    (nn.AvgPool2d(2, (2, 1)), False),
    (nn.AvgPool2d(2, padding=(1, 0)), False),
    (nn.AvgPool2d(2, divisor_override=3), False),
    (nn.AvgPool2d(4, ceil_mode=True), False),  # 6 is no multiple of 4
]


@pytest.fixture
def formula_calls(monkeypatch):
    """The inputs of the formula, which is used for few values too."""
    inputs = []
    monkeypatch.setattr(pooling, "_FEW", 0)
    averaged = pooling._tiles_averaged
    monkeypatch.setattr(
        pooling, "_tiles_averaged", lambda x, kernel: inputs.append(x) or averaged(x, kernel)
    )
    return inputs


@pytest.mark.parametrize(("pool", "replaced"), POOLS)
@pytest.mark.parametrize("shape", [(2, 3, 6, 6), (3, 6, 6)])
def test_values_and_derivatives_are_those_of_the_kernel(formula_calls, pool, replaced, shape):
    x, direction = torch.randn(2, *shape, dtype=torch.float64)

    def sweep(x):
        return jvp(grad(lambda x: pool(x).pow(3).sum()), (x,), (direction,))

    expected = [pool(x), *sweep(x)]
    assert not formula_calls
    with second_order():
        values = [pool(x), *sweep(x)]
    assert bool(formula_calls) == replaced
    for value, kernel in zip(values, expected, strict=True):
        torch.testing.assert_close(value, kernel, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(1, 1, 2, 2 * pooling._WIDEST_ROW),
        torch.randn(1, 1, 2, 2).bfloat16(),
        torch.randn(0, 1, 2, 2),
    ],
    ids=["wide", "bfloat16", "empty"],
)
def test_the_kernel_stays_where_the_formula_does_not_pay(formula_calls, x):
    with second_order():
        assert torch.equal(F.avg_pool2d(x, 2), pooling._native(x, 2))
    assert not formula_calls


def test_the_kernel_stays_under_autocast_and_for_few_values(formula_calls, monkeypatch):
    x = torch.randn(1, 1, 4, 4)
    with second_order():
        with torch.autocast("cpu", torch.bfloat16):
            assert F.avg_pool2d(x, 2).dtype == torch.float32
        monkeypatch.setattr(pooling, "_FEW", 16)
        F.avg_pool2d(x, 2)
    assert not formula_calls


def test_the_kernel_stays_with_channels_last(formula_calls):
    x = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    with second_order():
        assert torch.equal(F.avg_pool2d(x, 2), pooling._native(x, 2))
        assert not formula_calls
        # A single channel lies in both ways at once.
        F.avg_pool2d(x[:, :1].contiguous(memory_format=torch.channels_last), 2)
    assert formula_calls
