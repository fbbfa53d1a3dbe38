"""`second_order`: right second derivatives, unchanged values, and no trace left behind.

Reference for every operation are central differences of torch's first derivative in float64 (step
1e-5: truncation about 1e-9, rounding about 1e-10, hence the tolerance 1e-6) and exact agreement of
forward over reverse with double backward.
"""

import copy
import functools
import inspect
import pickle
import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn
from torch.func import functional_call

from dd_plugin.bilevel.foreign_models.formulas import REPLACEMENTS
from dd_plugin.bilevel.foreign_models.inspection import ForgetfulDict
from dd_plugin.bilevel.foreign_models.second_order import (
    SecondOrderNeed,
    missing_rule_operation,
    second_order,
    second_order_needs,
)
from tests.bilevel.operations import REPLACED, TABLE, second_derivatives


def _close(a, b, tolerance):
    scale = max(1e-3, max(t.abs().max().item() for t in b))
    return max((s - t).abs().max().item() for s, t in zip(a, b, strict=True)) <= tolerance * scale


# --- operations --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLE)
def test_second_derivatives_are_right(name):
    operation, inputs = TABLE[name]
    with second_order():
        found = second_derivatives(operation, inputs)
    assert _close(found["jvp of grad"], found["double backward"], 1e-9)
    assert _close(found["jvp of grad"], found["finite differences"], 1e-6)


@pytest.mark.parametrize("name", sorted(REPLACED))
def test_replaced_operations_keep_their_values(name):
    operation, inputs = TABLE[name]
    single = tuple(t.float() if t.is_floating_point() else t for t in inputs)
    if name.startswith(("nn.", "weight_norm, param")):
        single = inputs  # their modules are float64
    expected = operation(*single)
    with second_order():
        found = operation(*single)
    # float32 rounding of sums over up to sixteen terms, relative to the largest value.
    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-6 * scale)


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


def test_grid_sample_says_what_is_wrong():
    x = torch.zeros(1, 1, 3, 3)
    with second_order():
        with pytest.raises(ValueError, match="`input` and `grid`"):
            F.grid_sample(x, torch.zeros(1, 2, 2, 3))
        with pytest.raises(ValueError, match="`mode`"):
            F.grid_sample(x, torch.zeros(1, 2, 2, 2), mode="linear")


# --- the context -------------------------------------------------------------------------------


def _names():
    return [vars(home)[name] for home, name, _ in REPLACEMENTS] + [
        torch.utils.checkpoint.checkpoint,
        torch.backends.mha.get_fastpath_enabled(),
    ]


def test_names_come_back_also_after_an_error():
    before = _names()

    def fail():
        with second_order(), second_order():
            assert _names() != before
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert _names() == before


def test_overlapping_contexts_of_two_threads():
    before = _names()
    entered, leave = threading.Event(), threading.Event()

    def other():
        with second_order():
            entered.set()
            leave.wait(timeout=30)

    thread = threading.Thread(target=other)
    with second_order():
        thread.start()
        assert entered.wait(timeout=30)
    # This context was entered first and has left first; the other one still holds the names.
    assert F.hardsigmoid is not before[0]
    leave.set()
    thread.join()
    assert _names() == before


def test_only_modules_are_accepted():
    with pytest.raises(TypeError, match="`model`"), second_order("resnet18"):
        pass
    with pytest.raises(TypeError, match="`model`"):
        second_order_needs("resnet18")


# --- models ------------------------------------------------------------------------------------


class _BiasedAttention(nn.Module):
    """An eval-mode cache as LeViT and its relatives have it."""

    def __init__(self):
        super().__init__()
        self.attention_biases = nn.Parameter(torch.tensor([0.5, -0.3], dtype=torch.float64))
        self.attention_bias_cache = {}

    def forward(self, x):
        if "cpu" not in self.attention_bias_cache:
            self.attention_bias_cache["cpu"] = self.attention_biases**3
        return x * self.attention_bias_cache["cpu"]


class _Cached(nn.Module):
    """Three `functools` caches: of a method, of a function of this file, of a property."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))

    @functools.lru_cache(maxsize=2)  # noqa: B019
    def scaled(self):
        return self.weight * 2

    @functools.cached_property
    def squared(self):
        return self.weight**2

    def forward(self, x):
        return x * self.scaled() * self.squared + _table(2)


@functools.lru_cache(maxsize=2)
def _table(n):
    return torch.arange(n, dtype=torch.float64)


_early_hardsigmoid = F.hardsigmoid


class _Early(nn.Module):
    """References to an operation taken before the context."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, 0.7], dtype=torch.float64))
        self.gate = F.hardsigmoid

    def forward(self, x):
        return self.gate(x * self.weight) * _early_hardsigmoid(self.weight)


class _Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, 0.7], dtype=torch.float64))
        self.reentrant = reentrant

    def forward(self, x):
        return _early_checkpoint(torch.mul, x.sin(), self.weight**3, use_reentrant=self.reentrant)


_early_checkpoint = torch.utils.checkpoint.checkpoint


def _hessian_product(model, x):
    """H 1 of the loss sum sin(model(x)) for all parameters: both ways, twice the first."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    ones = {name: torch.ones_like(p) for name, p in parameters.items()}

    def loss(p):
        output = functional_call(model, p, (x,))
        output = getattr(output, "logits", output)
        return output.sin().sum()

    found = [torch.func.jvp(torch.func.grad(loss), (parameters,), (ones,))[1] for _ in range(2)]
    leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    first = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
    second = torch.autograd.grad(
        sum(g.sum() for g in first), list(leaves.values()), materialize_grads=True
    )
    return [list(h.values()) for h in found] + [list(second)]


def _attributes(model):
    return [
        (
            name,
            {k: (id(v), copy.copy(v) if isinstance(v, dict) else None) for k, v in names.items()},
        )
        for name, module in model.named_modules()
        for names in (vars(module), module._buffers, module._parameters)
    ]


def _check_model(model, x, tolerance=1e-8):
    before = _attributes(model)
    with second_order(model):
        forward, again, double = _hessian_product(model, x)
    assert _close(forward, double, tolerance)
    assert _close(forward, again, 1e-14)
    assert _attributes(model) == before
    return double


def test_bias_cache_passes_gradients_and_keeps_nothing():
    model = _BiasedAttention().eval()
    with torch.no_grad():
        model(torch.ones(2, dtype=torch.float64))  # a stale cache, without a graph
    model.attention_biases.data.mul_(2)
    product = _check_model(model, torch.ones(2, dtype=torch.float64))[0]
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
    model, x = _Cached(), torch.ones(2, dtype=torch.float64)
    with torch.no_grad():
        model(x)
    model.weight.data.add_(1)
    product = _check_model(model, x)[0]
    w = model.weight.detach()  # the model is 2 w^3 + (0, 1)
    y = 2 * w**3 + torch.arange(2)
    torch.testing.assert_close(product, 12 * w * y.cos() - (6 * w**2) ** 2 * y.sin())
    assert _table.cache_info().currsize == 1
    # A first call inside leaves nothing behind, in the instance or in the process.
    _table.cache_clear()
    fresh = _Cached()
    _check_model(fresh, x)
    assert "squared" not in vars(fresh)
    assert _table.cache_info().currsize == 0


def test_attributes_holding_escaped_tensors_are_dropped():
    class Keeps(_Early):
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
    _check_model(_Early(), torch.tensor([1.0, -2.0], dtype=torch.float64))
    assert _early_hardsigmoid is F.hardsigmoid


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint_is_run_plainly(reentrant):
    model, x = _Checkpointed(reentrant), torch.tensor([1.0, -2.0], dtype=torch.float64)
    with pytest.raises(RuntimeError) as raised:
        _hessian_product(model, x)
    assert missing_rule_operation(raised.value) is not None
    _check_model(model, x)


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
        _hessian_product(model, x)
    product = _check_model(model, x)[0]
    # d^2/dw^2 sin(x w^2) = 2 x cos(x w^2) - 4 x^2 w^2 sin(x w^2), diagonal.
    w = model.weight.detach()
    y = x * w**2
    torch.testing.assert_close(product, 2 * x * y.cos() - 4 * x**2 * w**2 * y.sin())
    assert torch.Tensor.requires_grad_ is before
    assert "requires_grad_" not in vars(torch.Tensor)
    with second_order():  # outside of a transform it is what it was
        assert torch.zeros(2).requires_grad_().requires_grad
        assert not torch.zeros(2).requires_grad_(False).requires_grad


class _Overwrites(nn.Module):
    """Updates its input in place in a part, and uses it again afterwards."""

    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([0.3, 0.7], dtype=torch.float64))

        def forward(self, x, scale):
            x *= self.weight * scale
            return x

    def __init__(self):
        super().__init__()
        self.part = self.Part()

    def forward(self, x, scale=3.0):
        return self.part(x, scale) * x  # both are x w scale


def test_inputs_that_are_written_into_are_copies():
    model, x = _Overwrites(), torch.tensor([1.0, -2.0], dtype=torch.float64)
    with pytest.raises(RuntimeError, match="in-place"):
        _hessian_product(model, x.clone())
    given = x.clone()
    product = _check_model(model, given)[0]
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
    model = _Overwrites()
    with second_order(model), second_order(model):
        assert len(model._forward_pre_hooks) == 1
    assert not model._forward_pre_hooks
    assert not model._forward_pre_hooks_with_kwargs


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
        nn.Linear(2, 2, dtype=torch.float64), nn.Hardsigmoid(), _BiasedAttention(), _Early()
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


# --- timm and transformers ---------------------------------------------------------------------


def _prepared(model):
    """float64, eval mode, and nothing at zero or at its default."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator))
    return model.double().eval()


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
    model = _prepared(timm.create_model(name, num_classes=3, **options))
    model.set_grad_checkpointing(True)
    x = torch.randn(
        2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        model(x)  # fills the bias caches
    _check_model(model, x)


def _hf(name):
    transformers = pytest.importorskip("transformers")
    if name == "vit":
        config = transformers.ViTConfig(
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=16,
            patch_size=8,
            num_labels=3,
        )
        return transformers.ViTForImageClassification(config), 16
    if name == "swin":
        config = transformers.SwinConfig(
            embed_dim=8,
            depths=[2, 1],
            num_heads=[2, 2],
            window_size=2,
            image_size=16,
            patch_size=2,
            num_labels=3,
        )
        return transformers.SwinForImageClassification(config), 16
    sizes = {"hidden_sizes": [8, 8, 8], "num_attention_heads": [2, 2, 2], "key_dim": [4, 4, 4]}
    down = ["Subsample", 4, 2, 4, 2, 2]
    config = transformers.LevitConfig(
        image_size=64, depths=[1, 1, 1], down_ops=[down, down], num_labels=3, **sizes
    )
    return transformers.LevitForImageClassification(config), 64


@pytest.mark.parametrize("name", ["vit", "swin", "levit"])
def test_transformers(name):
    model, size = _hf(name)
    model = _prepared(model)
    x = torch.randn(
        2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        model(x)
    _check_model(model, x)


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


# --- the report --------------------------------------------------------------------------------


def test_needs_of_a_model():
    model = nn.Sequential(
        nn.Hardsigmoid(), _BiasedAttention(), _Cached(), nn.MultiheadAttention(2, 1), nn.LSTM(2, 2)
    )
    model[0].grad_checkpointing = True
    needs = second_order_needs(model)
    assert SecondOrderNeed("operation", "0", "hardsigmoid") in needs
    assert SecondOrderNeed("checkpointing", "0", "grad_checkpointing") in needs
    assert SecondOrderNeed("cache", "1", "attention_bias_cache") in needs
    assert SecondOrderNeed("cache", "2", "functools cache _Cached.scaled") in needs
    assert SecondOrderNeed("operation", "3", "scaled_dot_product_attention") in needs
    assert SecondOrderNeed("unsupported", "4", "LSTM: its fused CUDA kernels") in needs
    assert second_order_needs(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU())) == []


def test_needs_of_timm_and_transformers():
    timm = pytest.importorskip("timm")
    found = second_order_needs(timm.create_model("mobilenetv3_small_050"))
    assert [(need.kind, need.what) for need in found] == [("operation", "hardsigmoid")]
    assert found[0].count == 9
    model, _ = _hf("vit")
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
