"""The context around whole models: checkpoints, marks, compilation, models of libraries."""

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn
from torch.func import functional_call

from dd_plugin.bilevel.foreign_models.second_order import (
    missing_rule_operation,
    second_order,
    second_order_needs,
)
from tests.bilevel.foreign_models.hessians import check_model, hessian_product
from tests.bilevel.foreign_models.models import BiasedAttention, Early, prepared, transformers_model


def test_only_modules_are_accepted():
    with pytest.raises(TypeError, match="`model`"), second_order("resnet18"):
        pass
    with pytest.raises(TypeError, match="`model`"):
        second_order_needs("resnet18")


class _Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, 0.7], dtype=torch.float64))
        self.reentrant = reentrant

    def forward(self, x):
        return _early_checkpoint(torch.mul, x.sin(), self.weight**3, use_reentrant=self.reentrant)


_early_checkpoint = torch.utils.checkpoint.checkpoint


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint_is_run_plainly(reentrant):
    model, x = _Checkpointed(reentrant), torch.tensor([1.0, -2.0], dtype=torch.float64)
    with pytest.raises(RuntimeError) as raised:
        hessian_product(model, x)
    assert missing_rule_operation(raised.value) is not None
    check_model(model, x)


class _Marks(nn.Module):
    """Marks an activation as requiring a gradient, as MaskFormer of transformers does."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, 0.7], dtype=torch.float64))

    def forward(self, x):
        start = torch.zeros_like(x).requires_grad_(True)
        return start + x * self.weight**2


def test_activations_may_be_marked_inside():
    model, x = _Marks(), torch.tensor([1.0, -2.0], dtype=torch.float64)
    before = torch.Tensor.requires_grad_
    with pytest.raises(RuntimeError, match="requires_grad_"):
        hessian_product(model, x)
    product = check_model(model, x)[0]
    # d^2/dw^2 sin(x w^2) = 2 x cos(x w^2) - 4 x^2 w^2 sin(x w^2), diagonal.
    w = model.weight.detach()
    y = x * w**2
    torch.testing.assert_close(product, 2 * x * y.cos() - 4 * x**2 * w**2 * y.sin())
    assert torch.Tensor.requires_grad_ is before
    assert "requires_grad_" not in vars(torch.Tensor)
    with second_order():  # outside of a transform it is what it was
        assert torch.zeros(2).requires_grad_().requires_grad
        assert not torch.zeros(2).requires_grad_(False).requires_grad


def test_checkpoint_flags_are_off_inside():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].grad_checkpointing = True
    model[1].gradient_checkpointing = True
    with second_order(model), second_order(model):
        assert not model[0].grad_checkpointing
        assert not model[1].gradient_checkpointing
    assert model[0].grad_checkpointing is True
    assert model[1].gradient_checkpointing is True


def test_compiled_around_the_context():
    model = nn.Sequential(
        nn.Linear(2, 2, dtype=torch.float64), nn.Hardsigmoid(), BiasedAttention(), Early()
    )
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    ones = {name: torch.ones_like(p) for name, p in parameters.items()}
    x = torch.tensor([[1.0, -2.0]], dtype=torch.float64)

    def product(parameters, tangents):
        def loss(p):
            y = functional_call(model, p, (x,))
            y = F.scaled_dot_product_attention(y, y, y)
            y = torch.utils.checkpoint.checkpoint(torch.sin, y, use_reentrant=False)
            return y.sum()

        return torch.func.jvp(torch.func.grad(loss), (parameters,), (tangents,))[1]

    compiled = torch.compile(product, fullgraph=True, backend="aot_eager")
    with second_order(model):
        torch.testing.assert_close(compiled(parameters, ones), product(parameters, ones))

    @torch.compile(fullgraph=True, backend="eager")
    def inside(x):
        with second_order():
            return x + 1

    with pytest.raises(Exception, match="must be entered outside of a compiled function"):
        inside(x)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("mobilenetv3_small_050", 32, {}),
        ("levit_128s", 224, {}),
        ("vit_tiny_patch16_224", 32, {"img_size": 32, "depth": 2}),
    ],
)
def test_timm(name, size, options):
    timm = pytest.importorskip("timm")
    model = prepared(timm.create_model(name, num_classes=3, **options))
    model.set_grad_checkpointing(True)
    x = torch.randn(
        2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        model(x)  # fills the bias caches
    check_model(model, x)


@pytest.mark.parametrize("name", ["vit", "swin", "levit"])
def test_transformers(name):
    model, size = transformers_model(name)
    model = prepared(model)
    x = torch.randn(
        2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        model(x)
    check_model(model, x)
