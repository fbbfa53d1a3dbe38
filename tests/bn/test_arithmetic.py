"""The formulas of batch normalisation against closed forms, finite differences and torch."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jvp, vmap
from torch.nn import functional as F

from dd_plugin.bn import arithmetic

EPS = 1e-5


def leaves(*shapes, seed=0):
    """Float64 tensors that want a gradient; the variance-like second one of three is positive."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    return [t.requires_grad_() for t in made]


def test_normalize_closed_form():
    # Channel 0: (3 - 1) / sqrt(3.9999 + 1e-4) * 5 + 7 = 2 / 2 * 5 + 7 = 12.
    x, mean, var = torch.tensor([[3.0]]), torch.tensor([1.0]), torch.tensor([3.9999])
    y = arithmetic.normalize(x, mean, var, torch.tensor([5.0]), torch.tensor([7.0]), 1e-4)
    assert y.item() == pytest.approx(12.0, rel=1e-6)


def test_batch_moments_closed_form():
    # Channel 0 holds 1, 2, 3, 6: mean 3, squared deviations 4 + 1 + 0 + 9 = 14, biased 14 / 4.
    x = torch.tensor([[[1.0, 2.0]], [[3.0, 6.0]]])
    mean, var, count = arithmetic.batch_moments(x)
    assert (mean.item(), var.item(), count) == (3.0, 3.5, 4)
    assert arithmetic.unbiased(var, count).item() == pytest.approx(14 / 3)


def test_one_value_per_channel_is_the_error_of_torch():
    x = torch.zeros(1, 3, 1, 1)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel") as ours:
        arithmetic.batch_moments(x)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel") as theirs:
        F.batch_norm(x, None, None, training=True)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("form", [arithmetic.normalize, arithmetic.fused_normalize])
@pytest.mark.parametrize("affine", [True, False])
def test_running_statistics_first_and_second_derivatives(form, affine):
    """All first, second and mixed derivatives in x, mean, var, weight, bias."""
    x, mean, log_var, weight, bias = leaves((3, 2, 2), 2, 2, 2, 2)

    def f(x, mean, log_var, weight, bias):
        affines = (weight, bias) if affine else (None, None)
        return form(x, mean, log_var.exp(), *affines, EPS)

    arguments = (x, mean, log_var, weight, bias) if affine else (x, mean, log_var)
    g = f if affine else (lambda x, mean, log_var: f(x, mean, log_var, None, None))
    assert gradcheck(g, arguments)
    assert gradgradcheck(g, arguments)


def test_batch_statistics_first_and_second_derivatives():
    x, weight, bias = leaves((3, 2, 2), 2, 2)

    def f(x, weight, bias):
        mean, var, _ = arithmetic.batch_moments(x)
        return arithmetic.normalize(x, mean, var, weight, bias, EPS)

    assert gradcheck(f, (x, weight, bias), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(f, (x, weight, bias), check_fwd_over_rev=True)


def test_reverse_over_forward_is_right_too():
    """The combination in which the fused kernel is wrong: the gradient of a jvp."""
    x, t = leaves((4, 2, 3), (4, 2, 3))
    x, t = x.detach(), t.detach()

    def loss(x):
        mean, var, _ = arithmetic.batch_moments(x)
        return arithmetic.normalize(x, mean, var, None, None, EPS).pow(3).sum()

    over_forward = grad(lambda x: jvp(loss, (x,), (t,))[1])(x)
    over_reverse = jvp(grad(loss), (x,), (t,))[1]
    explicit = torch.einsum("abcdef,def->abc", hessian(loss)(x), t)
    torch.testing.assert_close(over_forward, explicit, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(over_reverse, explicit, rtol=1e-9, atol=1e-9)


def test_fused_form_equals_plain_form():
    x, mean, log_var, weight, bias = leaves((3, 2, 4, 4), 2, 2, 2, 2)
    arguments = (x, mean, log_var, weight, bias)
    results = []
    for form in (arithmetic.normalize, arithmetic.fused_normalize):
        y = form(x, mean, log_var.exp(), weight, bias, EPS)
        gradients = torch.autograd.grad(y.pow(3).sum(), arguments, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in gradients), arguments)
        results.append((y, *gradients, *second))
    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(plain, fused, rtol=1e-9, atol=1e-9)


def test_the_fused_kernel_is_used_only_where_its_rules_hold():
    seen = []

    def look(x):
        seen.append(arithmetic.fused_kernel_is_exact(x))
        return x.square().sum()

    x = torch.randn(2, 3)
    look(x)
    grad(look)(x)
    jvp(look, (x,), (x,))
    vmap(look)(torch.randn(2, 2, 3))
    with torch.autograd.forward_ad.dual_level():
        look(x)
    torch.compile(look, backend="eager")(x)
    look(x[:1])
    look(x)
    assert seen == [True, False, False, False, False, False, False, True]


def test_positive_keeps_variances_and_reads_negatives_as_their_size():
    v = torch.tensor([2.0, 0.0, -3.0], requires_grad=True)
    p = arithmetic.positive(v)
    assert p.tolist() == [2.0, 0.0, 3.0]
    # The slope at zero is 1, not 0: a dead channel's variance can still be learned.
    (slope,) = torch.autograd.grad(p.sum(), v)
    assert slope.tolist() == [1.0, 1.0, -1.0]


@pytest.mark.parametrize("momentum", [0.01, 0.1, 0.5, 1.0])
def test_momentum_is_unchanged_by_no_shift(momentum):
    shifted = arithmetic.effective_momentum(momentum, torch.zeros((), dtype=torch.float64))
    assert shifted.item() == pytest.approx(momentum, rel=1e-15)


def test_momentum_shift_is_on_the_logit_scale():
    # logit(0.2) = log(1/4); adding log(4) gives logit 0, which is 0.5.
    shift = torch.tensor(math.log(4.0), dtype=torch.float64, requires_grad=True)
    momentum = arithmetic.effective_momentum(0.2, shift)
    assert momentum.item() == pytest.approx(0.5, rel=1e-12)
    # The slope of the logistic function at 1/2 is 1/2 (1 - 1/2) = 1/4.
    assert torch.autograd.grad(momentum, shift)[0].item() == pytest.approx(0.25, rel=1e-12)


@pytest.mark.parametrize("shift", [-1e30, -1e3, 1e3, 1e30])
def test_a_hostile_momentum_shift_stays_a_momentum(shift):
    value = torch.tensor(shift, requires_grad=True)
    momentum = arithmetic.effective_momentum(0.1, value)
    assert 0.0 <= momentum.item() <= 1.0
    assert torch.autograd.grad(momentum, value)[0].isfinite()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_inputs_keep_their_dtype_and_use_float32_statistics(dtype):
    x = (torch.randn(64, 2, 8, 8) + 100).to(dtype)
    mean, var, _ = arithmetic.batch_moments(x)
    assert mean.dtype == var.dtype == torch.float32
    exact_var, exact_mean = torch.var_mean(x.double(), (0, 2, 3), correction=0)
    torch.testing.assert_close(mean.double(), exact_mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(var.double(), exact_var, rtol=1e-5, atol=0)
    assert arithmetic.normalize(x, mean, var, None, None, EPS).dtype == dtype


def test_a_large_offset_does_not_cancel():
    """With mean 1e4 and spread 1, folding the mean into one product would lose all digits."""
    x = torch.randn(256, 1) + 1e4
    mean, var, _ = arithmetic.batch_moments(x)
    y = arithmetic.normalize(x, mean, var, None, None, EPS)
    exact = (x.double() - x.double().mean()) / x.double().std(correction=0)
    assert (y.double() - exact).abs().max() < 2e-3
