import pytest
import torch
from torch.func import grad, jvp, vmap

from dd_plugin.bn.arithmetic import batch_moments, normalize
from dd_plugin.bn.rules import batch_normalize

# torch loads parts of itself at the first jvp that use what it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")

EPS = 1e-3


def _by_rules(x, w, b):
    y, mean, var, _ = batch_normalize(x, w, b, EPS)
    return y, mean, var


def _by_arithmetic(x, w, b):
    mean, var, _ = batch_moments(x)
    return normalize(x, mean, var, w, b, EPS), mean, var


def _inputs(shape=(3, 2, 4)):
    generator = torch.Generator().manual_seed(0)

    def draw(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    return draw(*shape), draw(shape[1]), draw(shape[1])


def _scalar(function):
    """A loss that uses all three results, and not linearly."""

    def loss(x, w, b):
        y, mean, var = function(x, w, b)
        return (y.sin() * y).sum() + mean.exp().sum() + (var * var).sum()

    return loss


def _forward_over_reverse(function):
    x, w, b = _inputs()
    tangents = tuple(t.cos() for t in (x, w, b))
    return jvp(grad(_scalar(function), argnums=(0, 1, 2)), (x, w, b), tangents)


@pytest.mark.parametrize("shape", [(5, 2), (3, 2, 4), (2, 3, 2, 2), (2, 2, 2, 1, 3)])
def test_values_and_gradients_are_those_of_the_arithmetic(shape):
    x, w, b = _inputs(shape)
    for ours, plain in zip(_by_rules(x, w, b), _by_arithmetic(x, w, b), strict=True):
        torch.testing.assert_close(ours, plain)
    both = (grad(_scalar(f), argnums=(0, 1, 2))(x, w, b) for f in (_by_rules, _by_arithmetic))
    for ours, plain in zip(*both, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-11)


def test_forward_over_reverse_is_that_of_the_arithmetic():
    (_, ours), (_, plain) = _forward_over_reverse(_by_rules), _forward_over_reverse(_by_arithmetic)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def test_double_backward_and_finite_differences():
    leaves = tuple(t.requires_grad_() for t in _inputs())
    assert torch.autograd.gradcheck(_by_rules, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(_by_rules, leaves)


def test_batched_forward_over_reverse():
    x, w, b = _inputs()
    many = torch.stack([x, 2 * x.sin(), x.exp()])

    def sweep(x):
        return jvp(lambda x: grad(_scalar(_by_rules))(x, w, b), (x,), (x.cos(),))[1]

    expected = torch.stack([sweep(one) for one in many])
    torch.testing.assert_close(vmap(sweep)(many), expected, rtol=1e-10, atol=1e-11)


def test_without_affine_parameters_and_in_low_precision():
    x, _, _ = _inputs()
    y, mean, var, count = batch_normalize(x.bfloat16(), None, None, EPS)
    assert (y.dtype, mean.dtype, var.dtype, count) == (
        torch.bfloat16,
        torch.float32,
        torch.float32,
        12,
    )
    one = torch.ones(2, dtype=torch.float64)
    expected, _, _ = _by_arithmetic(x, one, 0 * one)
    torch.testing.assert_close(batch_normalize(x, None, None, EPS)[0], expected)


def test_one_value_per_channel_is_refused():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        batch_normalize(torch.zeros(1, 3), None, None, EPS)
