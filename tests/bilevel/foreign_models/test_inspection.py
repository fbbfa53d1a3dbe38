"""What a model carries that stands in the way: caches, early references, inputs written into."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from dd_plugin.bilevel.foreign_models.inspection import ForgetfulDict
from dd_plugin.bilevel.foreign_models.second_order import (
    SecondOrderNeed,
    second_order,
    second_order_needs,
)
from tests.bilevel.foreign_models.hessians import check_model, hessian_product
from tests.bilevel.foreign_models.models import (
    BiasedAttention,
    Cached,
    Early,
    Overwrites,
    early_hardsigmoid,
    table,
)


def test_bias_cache_passes_gradients_and_keeps_nothing():
    model = BiasedAttention().eval()
    with torch.no_grad():
        model(torch.ones(2, dtype=torch.float64))  # a stale cache, without a graph
    model.attention_biases.data.mul_(2)
    product = check_model(model, torch.ones(2, dtype=torch.float64))[0]
    # d^2/db^2 sin(b^3) = 6 b cos(b^3) - 9 b^4 sin(b^3), diagonal.
    b = model.attention_biases.detach()
    torch.testing.assert_close(product, 6 * b * (b**3).cos() - 9 * b**4 * (b**3).sin())


def test_forgetful_dict_copies_to_a_plain_dictionary():
    cache = ForgetfulDict()
    cache["a"] = 1
    assert "a" not in cache
    assert cache["a"] == 1
    assert not cache
    cache["a"] = 1
    for other in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert type(other) is dict
        assert not other


@pytest.mark.filterwarnings("ignore:.*lru_cache")
def test_functools_caches_are_passed_by():
    model, x = Cached(), torch.ones(2, dtype=torch.float64)
    with torch.no_grad():
        model(x)
    model.weight.data.add_(1)
    product = check_model(model, x)[0]
    w = model.weight.detach()  # the model is 2 w^3 + (0, 1)
    y = 2 * w**3 + torch.arange(2)
    torch.testing.assert_close(product, 12 * w * y.cos() - (6 * w**2) ** 2 * y.sin())
    assert table.cache_info().currsize == 1
    # A first call inside leaves nothing behind, in the instance or in the process.
    table.cache_clear()
    fresh = Cached()
    check_model(fresh, x)
    assert "squared" not in vars(fresh)
    assert table.cache_info().currsize == 0


def test_attributes_holding_escaped_tensors_are_dropped():
    class Keeps(Early):
        def forward(self, x):
            self.last = super().forward(x)
            self.kept_list = [self.last]
            return self.last

    model = Keeps()
    model.kept_list = []
    kept = model.kept_list
    with second_order(model):
        torch.func.grad(lambda p: functional_call(model, p, (torch.ones(2).double(),)).sum())(
            {"weight": torch.ones(2).double()}
        )
    assert not hasattr(model, "last")
    assert model.kept_list is kept


def test_early_references_are_replaced():
    check_model(Early(), torch.tensor([1.0, -2.0], dtype=torch.float64))
    assert early_hardsigmoid is F.hardsigmoid


def test_inputs_that_are_written_into_are_copies():
    model, x = Overwrites(), torch.tensor([1.0, -2.0], dtype=torch.float64)
    with pytest.raises(RuntimeError, match="in-place"):
        hessian_product(model, x.clone())
    given = x.clone()
    product = check_model(model, given)[0]
    assert torch.equal(given, x)
    # d^2/dw^2 sin(a w^2), a = 9 x^2: 2 a cos(a w^2) - 4 a^2 w^2 sin(a w^2), diagonal.
    w, a = model.part.weight.detach(), 9 * x**2
    y = a * w**2
    torch.testing.assert_close(product, 2 * a * y.cos() - 4 * a**2 * w**2 * y.sin())
    # The gradient reaches the input through its copy: d/dx sum (3 w x)^2 = 18 w^2 x.
    with second_order(model):
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(x=leaf, scale=3.0).sum(), leaf)
    torch.testing.assert_close(gradient, 18 * w**2 * x)
    assert SecondOrderNeed("input", "part", "x") in second_order_needs(model)


def test_inputs_are_left_alone_where_nothing_writes_into_them():
    class Rebinds(nn.Identity):
        def forward(self, x):
            x = x + 1
            x *= 2
            return x

    model = nn.Sequential(Rebinds(), nn.Identity())
    with second_order(model):
        assert not model._forward_pre_hooks
    model = Overwrites()
    with second_order(model), second_order(model):
        assert len(model._forward_pre_hooks) == 1
    assert not model._forward_pre_hooks
    assert not model._forward_pre_hooks_with_kwargs


def test_process_wide_cache_of_transformers_is_not_poisoned():
    modeling = pytest.importorskip("transformers.models.rt_detr.modeling_rt_detr")
    if not hasattr(modeling, "RTDetrSinePositionEmbedding"):
        pytest.skip("this transformers has no cached position embedding")
    layer = modeling.RTDetrSinePositionEmbedding(embed_dim=8)

    def loss(x):
        table = layer(width=3, height=3, device=torch.device("cpu"), dtype=torch.float64)
        return (table * x).sin().sum()

    x = torch.ones((), dtype=torch.float64)
    expected = torch.func.grad(loss)(x)
    for model in (layer, None):  # found in the class, and passed by in transformers itself
        with second_order(model):
            torch.func.jvp(torch.func.grad(loss), (x,), (x,))
        torch.testing.assert_close(torch.func.grad(loss)(x), expected)
