"""What is said of a model beforehand, and of what failed."""

import pytest
import torch
from torch import nn

from dd_plugin.bilevel.foreign_models.second_order import (
    SecondOrderNeed,
    missing_rule_operation,
    second_order_needs,
)
from tests.bilevel.foreign_models.models import BiasedAttention, Cached, transformers_model


def test_needs_of_a_model():
    model = nn.Sequential(
        nn.Hardsigmoid(), BiasedAttention(), Cached(), nn.MultiheadAttention(2, 1), nn.LSTM(2, 2)
    )
    model[0].grad_checkpointing = True
    needs = second_order_needs(model)
    assert SecondOrderNeed("operation", "0", "hardsigmoid") in needs
    assert SecondOrderNeed("checkpointing", "0", "grad_checkpointing") in needs
    assert SecondOrderNeed("cache", "1", "attention_bias_cache") in needs
    assert SecondOrderNeed("cache", "2", "functools cache Cached.scaled") in needs
    assert SecondOrderNeed("operation", "3", "scaled_dot_product_attention") in needs
    assert SecondOrderNeed("unsupported", "4", "LSTM: its fused CUDA kernels") in needs
    assert second_order_needs(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU())) == []


def test_needs_of_timm_and_transformers():
    timm = pytest.importorskip("timm")
    found = second_order_needs(timm.create_model("mobilenetv3_small_050"))
    assert [(need.kind, need.what) for need in found] == [("operation", "hardsigmoid")]
    assert found[0].count == 9
    model, _ = transformers_model("vit")
    assert any("attn_implementation='sdpa'" in need.what for need in second_order_needs(model))
    model.config._attn_implementation = "flex_attention"
    assert any(need.kind == "unsupported" for need in second_order_needs(model))


@pytest.mark.parametrize(
    ("message", "operation"),
    [
        (
            "Trying to use forward AD with aten::hardsigmoid_backward that does not support it.",
            "hardsigmoid_backward",
        ),
        (
            "Trying to use forward AD with _cdist_forward that does not support it because it has "
            "not been implemented yet.",
            "_cdist_forward",
        ),
        ("derivative for aten::_ctc_loss_backward is not implemented", "_ctc_loss_backward"),
        (
            "the derivative for '_embedding_bag_backward' is not implemented.",
            "_embedding_bag_backward",
        ),
        ("double backwards on roi_align not supported", "roi_align"),
        (
            "ZeroTensors are immutable. Please use the materialized zero tensor obtained using "
            ".clone() if you want a mutable tensor.",
            "an operation that torch does not name",
        ),
        ("Expected all tensors to be on the same device", None),
    ],
)
def test_missing_rule_messages(message, operation):
    assert missing_rule_operation(RuntimeError(message)) == operation


def test_missing_rule_of_real_errors():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * x

        @staticmethod
        def backward(ctx, g):
            return g

    x = torch.ones(2)
    with pytest.raises(RuntimeError) as raised:
        torch.func.grad(lambda x: Square.apply(x).sum())(x)
    assert missing_rule_operation(raised.value) == "autograd.Function"
    compiled = torch.compile(
        lambda x: torch.func.jvp(lambda x: torch.cdist(x, x), (x,), (x,))[1],
        backend="eager",
        fullgraph=True,
    )
    with pytest.raises(RuntimeError) as raised:
        compiled(torch.ones(2, 2))
    torch._dynamo.reset()
    assert missing_rule_operation(raised.value) in ("_cdist_forward", "_euclidean_dist")
