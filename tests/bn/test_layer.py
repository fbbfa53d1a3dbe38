"""The layer: what each policy normalises with, what moves its statistics, and every derivative."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp, stack_module_state, vmap

from dd_plugin.bn import (
    LearnableBatchNorm1d,
    LearnableBatchNorm2d,
    LearnableBatchNorm3d,
    convert_bn,
    revert_bn,
    statistics_in_graph,
    tracking_tensors,
)
from tests.bn.layers import images, randomised, stock, tensors_of

POLICIES = [(s, t) for s in ("learned", "tracked", "frozen") for t in ("batch", "running")]


@pytest.mark.parametrize(("statistics", "train_with"), POLICIES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_output_is_the_stock_layers(statistics, train_with, training, affine):
    layer = stock(affine=affine).train(training)
    expected = copy.deepcopy(layer)
    if training and train_with == "running":
        expected.eval()
    x = images()
    y = expected(x)
    converted = convert_bn(layer, statistics, train_with)
    again = copy.deepcopy(converted)
    torch.testing.assert_close(converted(x), y, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(again(x), y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("made", "of", "shape"),
    [
        (LearnableBatchNorm1d, nn.BatchNorm1d, (4, 3)),
        (LearnableBatchNorm1d, nn.BatchNorm1d, (4, 3, 5)),
        (LearnableBatchNorm2d, nn.BatchNorm2d, (4, 3, 5, 5)),
        (LearnableBatchNorm3d, nn.BatchNorm3d, (4, 3, 2, 3, 4)),
    ],
)
def test_a_layer_made_directly_is_that_layer(made, of, shape):
    ours, theirs = made(3, statistics="tracked"), of(3)
    assert isinstance(ours, of)
    x = torch.randn(shape)
    for _ in range(3):
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    assert type(revert_bn(ours)) is of


@pytest.mark.parametrize("momentum", [0.1, 0.7, 1.0, None])
def test_tracked_moves_as_batch_norm_does(momentum):
    theirs = stock(momentum=momentum)
    ours = convert_bn(copy.deepcopy(theirs), "tracked")
    for _ in range(4):
        x = images()
        ours(x), theirs(x)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-12, atol=0)
    assert ours.num_batches_tracked.item() == 4


def test_tracked_holds_no_graph_across_iterations():
    layer = convert_bn(stock(), "tracked")
    x = images().requires_grad_()
    for _ in range(2):
        layer(x).sum().backward()
        assert not layer.running_mean.requires_grad
        assert layer.running_mean.grad_fn is None


def test_correction_closed_form():
    # mean 2 * (1 + 0.5) = 3, var 4 * exp(log 9) = 36: (9 - 3) / 6 = 1.
    # 36 + 1e-300 is 36 in float64; older torch refuses an eps of zero.
    layer = nn.BatchNorm1d(1, eps=1e-300, dtype=torch.float64).eval()
    layer.running_mean.fill_(2), layer.running_var.fill_(4)
    convert_bn(layer, "tracked")
    layer.mean_correction.fill_(0.5)
    layer.var_correction.fill_(math.log(9.0))
    x = torch.tensor([[9.0]], dtype=torch.float64)
    assert layer(x).item() == pytest.approx(1.0, rel=1e-12)
    # The checkpoint and the stock layer hold what eval mode used.
    assert layer.state_dict()["running_mean"].item() == 3.0
    assert layer.state_dict()["running_var"].item() == pytest.approx(36.0)
    assert revert_bn(layer)(x).item() == pytest.approx(1.0, rel=1e-12)
    assert layer.running_mean.item() == 3.0


@pytest.mark.parametrize("form", ["eager", "functional"])
def test_eval_mode_gradients_against_finite_differences(form):
    """First and second derivatives of the layer in x, statistics, corrections and affines."""
    layer = convert_bn(stock(2), "tracked").eval()
    names = [*tensors_of(layer)]
    names.remove("num_batches_tracked")
    names.remove("momentum_shift")
    values = [tensors_of(layer)[n].detach().clone().requires_grad_() for n in names]

    def f(x, *values):
        if form == "functional":
            return functional_call(layer, dict(zip(names, values, strict=True)), (x,))
        model = copy.deepcopy(layer)
        for name, value in zip(names, values, strict=True):
            (model._buffers if name in model._buffers else model._parameters)[name] = value
        return model(x)

    arguments = (images(2, 2).requires_grad_(), *values)
    assert torch.autograd.gradcheck(f, arguments)
    assert torch.autograd.gradgradcheck(f, arguments)


@pytest.mark.parametrize("train_with", ["batch", "running"])
def test_tracked_step_derivatives_against_finite_differences(train_with):
    """Output and new statistics of one step in the graph: first, second and mixed derivatives."""
    layer = convert_bn(stock(2), "tracked", train_with)
    names = [name for name in tensors_of(layer) if name != "num_batches_tracked"]

    def step(x, *values):
        tensors = dict(zip(names, values, strict=True))
        with statistics_in_graph():
            y = functional_call(layer, tensors, (x,))
        return y, tensors["running_mean"], tensors["running_var"]

    values = [tensors_of(layer)[n].detach().clone().requires_grad_() for n in names]
    arguments = (images(2, 2).requires_grad_(), *values)
    assert torch.autograd.gradcheck(step, arguments)
    assert torch.autograd.gradgradcheck(step, arguments, check_fwd_over_rev=True)


def test_running_in_train_mode_reaches_learned_statistics():
    layer = convert_bn(stock(), "learned", "running")
    layer(images()).pow(2).sum().backward()
    assert layer.running_mean.grad.abs().min() > 0
    assert layer.running_var.grad.abs().min() > 0


def test_batch_in_train_mode_leaves_learned_statistics_without_gradient():
    layer = convert_bn(stock(), "learned", "batch")
    before = layer.running_mean.clone()
    layer(images()).pow(2).sum().backward()
    assert layer.running_mean.grad is None
    assert torch.equal(layer.running_mean, before)


@pytest.mark.parametrize("step", [1e-3, 1.0, 1e3, 1e30])
def test_the_variance_survives_a_hostile_step(step):
    """SGD moves every variance below zero; it stays a variance, learnable and loadable."""
    layer = convert_bn(nn.BatchNorm2d(3).eval())
    layer.running_var.grad = torch.full((3,), 1.0 + step)
    torch.optim.SGD([layer.running_var], lr=1.0).step()
    assert (layer.running_var < 0).all()
    x = torch.randn(2, 3, 2, 2)
    y = layer(x)
    assert y.isfinite().all()
    y.square().sum().backward()
    assert layer.running_var.grad.isfinite().all()
    fresh = nn.BatchNorm2d(3).eval()
    fresh.load_state_dict(layer.state_dict())
    assert (fresh.running_var > 0).all()
    torch.testing.assert_close(fresh(x), y)
    torch.testing.assert_close(revert_bn(layer)(x), y)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_gradient_is_right_behind_a_transpose(batch, training):
    """Torch's own CPU kernel gets a batch of one wrong here."""
    layer = convert_bn(stock()).train(training)
    x = images(batch, size=4).requires_grad_()
    weights = torch.randn(batch, 16, 3, dtype=torch.float64)

    def loss(x):
        return (layer(x).flatten(2).transpose(1, 2) * weights).sum()

    assert torch.autograd.gradcheck(loss, (x,))


@pytest.mark.parametrize(("statistics", "train_with"), POLICIES)
@pytest.mark.parametrize("training", [True, False])
def test_jvp_of_grad_equals_double_backward(statistics, train_with, training):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 2, 2))
    model = convert_bn(model.double().train(training), statistics, train_with)
    randomised(model[1])
    values = {k: v.detach().clone() for k, v in tensors_of(model).items() if v.is_floating_point()}
    x = images(3, size=5)

    def loss(values):
        tensors = {**tensors_of(model), **values}
        with statistics_in_graph():
            y = functional_call(model, tensors, (x,))
        return y.square().mean() + tensors["1.running_mean"].square().sum()

    tangent = {k: torch.randn_like(v) for k, v in values.items()}
    forward_over_reverse = jvp(grad(loss), (values,), (tangent,))[1]
    leaves = {k: v.requires_grad_() for k, v in values.items()}
    first = torch.autograd.grad(
        loss(leaves), list(leaves.values()), create_graph=True, materialize_grads=True
    )
    slope = sum((g * tangent[k]).sum() for k, g in zip(leaves, first, strict=True))
    double = torch.autograd.grad(slope, list(leaves.values()), materialize_grads=True)
    for name, expected in zip(leaves, double, strict=True):
        torch.testing.assert_close(forward_over_reverse[name], expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("statistics", ["learned", "tracked", "frozen"])
@pytest.mark.parametrize("training", [True, False])
def test_vmap_over_networks_equals_one_after_another(statistics, training):
    layers = [convert_bn(stock(), statistics).train(training) for _ in range(3)]
    x = images()
    parameters, buffers = stack_module_state(layers)
    base = copy.deepcopy(layers[0]).to("meta")

    def call(parameters, buffers, x):
        tensors = {**parameters, **buffers}
        with statistics_in_graph():
            y = functional_call(base, tensors, (x,))
        return y, tensors["running_mean"]

    y, means = vmap(call, (0, 0, None))(parameters, buffers, x)
    for i, layer in enumerate(layers):
        torch.testing.assert_close(y[i], layer(x), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(means[i], layer.running_mean, rtol=1e-12, atol=1e-12)


def test_without_running_statistics_the_batch_is_always_used():
    layer = convert_bn(nn.BatchNorm2d(3, track_running_stats=False), "tracked")
    reference = nn.BatchNorm2d(3, track_running_stats=False)
    x = torch.randn(4, 3, 2, 2)
    for training in (True, False):
        torch.testing.assert_close(layer.train(training)(x), reference.train(training)(x))
    assert tracking_tensors(layer) == {}
    assert layer.state_dict().keys() == reference.state_dict().keys()


def test_frozen_statistics_do_not_move():
    layer = convert_bn(stock(), "frozen")
    before = copy.deepcopy(layer.state_dict())
    layer(images())
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]


@pytest.mark.parametrize("made", ["learned", "tracked"])
def test_shape_errors(made):
    layer = convert_bn(nn.BatchNorm2d(3), made)
    with pytest.raises(ValueError, match="expected 4D input"):
        layer(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="3 channels"):
        layer(torch.zeros(2, 1, 2, 2))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(torch.zeros(1, 3, 1, 1))
    assert layer.num_batches_tracked.item() == 0
