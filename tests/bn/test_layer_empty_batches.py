"""Batches without values: as torch's layers do, count them and leave the statistics alone."""

import contextlib
import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d, EvoNorm2dB0
from torch import nn
from torch.func import functional_call

from dd_plugin.bilevel import BilevelProblem, hypergradient
from dd_plugin.bilevel.foreign_models.batchnorm import differentiable_batch_norm
from dd_plugin.bn import convert_bn, statistics_in_graph
from dd_plugin.bn.convert import use_own_batches

STATISTICS = ("learned", "tracked", "frozen")
KINDS = {
    "1d": (nn.BatchNorm1d, [(0, 3), (0, 3, 4), (2, 3, 0)]),
    "2d": (nn.BatchNorm2d, [(0, 3, 4, 4), (2, 3, 0, 4), (0, 3, 0, 0)]),
    "3d": (nn.BatchNorm3d, [(0, 3, 2, 2, 2), (5, 3, 2, 0, 2)]),
    "sync": (nn.SyncBatchNorm, [(0, 3, 4, 4), (2, 3, 4, 0)]),
    "act": (BatchNormAct2d, [(0, 3, 4, 4), (2, 3, 0, 4)]),
}


def used(layer):
    """With statistics that are not their first values."""
    with torch.no_grad():
        for tensor in [*layer.parameters(), *layer.buffers()]:
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
            else:
                tensor.fill_(3)
    return layer


def after(layer, x):
    """Output, gradients and buffers after a forward and a backward pass."""
    x = x.clone().requires_grad_()
    y = layer(x)
    y.sum().backward()
    gradients = {n: p.grad for n, p in layer.named_parameters() if "running" not in n}
    kept = {n: t.detach() for n, t in layer.state_dict().items()}
    return {"y": y.detach(), "x": x.grad, **gradients, **kept}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_as_in_the_stock_layer(kind, statistics, momentum, training):
    cls, shapes = KINDS[kind]
    for shape in shapes:
        stock = used(cls(3, momentum=momentum)).train(training)
        if kind == "sync":  # the stock layer takes no CPU tensors, a process of its own does
            stock = use_own_batches(stock)
        layer = convert_bn(copy.deepcopy(stock), statistics)
        expected, found = after(stock, torch.zeros(shape)), after(layer, torch.zeros(shape))
        assert expected["running_var"].isfinite().all()
        if statistics != "tracked":  # these count no batches
            expected.pop("num_batches_tracked")
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("train_with", ["batch", "running"])
@given(sizes=st.lists(st.sampled_from([0, 1, 2, 5]), min_size=1, max_size=6))
def test_ragged_batches_leave_finite_statistics(statistics, train_with, sizes):
    """Parts of a batch picked by a mask, none of them among others, in any order."""
    layer = convert_bn(nn.BatchNorm1d(2), statistics, train_with).train()
    expected = nn.BatchNorm1d(2).train()
    for size in sizes:
        x = torch.randn(size, 2)
        if size == 1:  # as in the stock layer, one value has no variance
            moves = train_with == "batch" or statistics == "tracked"
            refused = pytest.raises(ValueError, match="more than 1 value")
            with refused if moves else contextlib.nullcontext():
                layer(x)
            continue
        layer(x)
        expected(x)
    state = layer.state_dict()
    assert all(t.isfinite().all() for t in state.values())
    if statistics == "tracked":
        torch.testing.assert_close(state["running_mean"], expected.running_mean)
        torch.testing.assert_close(state["running_var"], expected.running_var)


def test_in_the_graph_the_statistics_pass_through():
    layer = convert_bn(used(nn.BatchNorm2d(3)), "tracked").train()
    tensors = {n: t.clone() for n, t in [*layer.named_parameters(), *layer.named_buffers()]}
    mean = tensors["running_mean"].requires_grad_()
    with statistics_in_graph():
        functional_call(layer, tensors, (torch.zeros(0, 3, 4, 4),))
    assert tensors["num_batches_tracked"] == 4
    (gradient,) = torch.autograd.grad(tensors["running_mean"].sum(), mean)
    assert torch.equal(gradient, torch.ones(3))


def test_a_stock_layer_is_left_alone_while_the_function_is_replaced():
    layer = used(nn.BatchNorm2d(3)).train()
    before = layer.running_var.clone()
    with differentiable_batch_norm():
        layer(torch.zeros(0, 3, 4, 4))
    assert torch.equal(layer.running_var, before)


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")  # of the instances, as in timm
def test_evonorm_keeps_its_variance_where_timms_becomes_nan():
    layer = convert_bn(used(EvoNorm2dB0(3)), "tracked").train()
    before = layer.running_var.clone()
    layer(torch.zeros(0, 3, 4, 4))
    assert torch.equal(layer.running_var, before)


class Experts(nn.Module):
    """Samples are sent to one of two branches; in the first step the second gets none."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm1d(3), nn.BatchNorm1d(3)])
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        second = x[:, 0] > 10
        parts = [self.norms[0](x[~second]), self.norms[1](x[second])]
        return self.head(torch.cat(parts))


@pytest.mark.parametrize("statistics", [None, *STATISTICS])
@pytest.mark.parametrize("method", ["mixed", "reverse"])
def test_the_engine_differentiates_through_an_empty_branch(statistics, method):
    torch.manual_seed(0)
    model = Experts().double()
    if statistics is not None:
        convert_bn(model, statistics)
    plain = torch.randn(6, 3, dtype=torch.float64)
    routed = plain.clone()
    routed[3:, 0] = 11 + torch.rand(3, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    run = (BilevelProblem(model), [(plain, labels), (routed, labels)], (routed, labels))
    expected = hypergradient(*run, method="autograd", step_size=0.1)
    found = hypergradient(*run, method=method, step_size=0.1)
    for a, b in zip(expected.batches.values(), found.batches.values(), strict=True):
        assert b.images.isfinite().all()
        torch.testing.assert_close(a.images, b.images, rtol=1e-9, atol=1e-12)
