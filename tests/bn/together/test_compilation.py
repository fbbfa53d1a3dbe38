"""A converted model under autocast, compiled and traced."""

import copy

import pytest
import torch
import torch._dynamo.testing
import torch.fx
from torch import nn

from dd_plugin.bn import convert_bn, converted_layers, revert_bn
from tests.bn.networks import batches, both_modes, close, network, policies

# torch's own, when it imports its forward-mode decompositions or its compiler.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script.*", "ignore:.*is deprecated:DeprecationWarning"
)


@policies
@both_modes
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_that_of_the_stock_model(statistics, train_with, dtype):
    stock = network(torch.float32)
    converted = convert_bn(copy.deepcopy(stock), statistics, train_with)
    if train_with == "running":
        for layer in (stock[1], stock[3]):
            layer.eval()
    x = batches(1, torch.float32)[0]
    results = []
    for model in (stock, converted):
        with torch.autocast("cpu", dtype=dtype):
            y = model(x)
        y.float().square().sum().backward()
        assert model[0].weight.grad.dtype == torch.float32
        results.append((y, model[0].weight.grad))
    assert results[0][0].dtype == results[1][0].dtype == dtype
    # Some units in the last place of the low precision.
    tolerance = 16 * torch.finfo(dtype).eps
    close(results[1][0], results[0][0], tolerance)
    close(results[1][1], results[0][1], tolerance * results[0][1].abs().max().item())
    for layer in converted_layers(converted).values():
        assert layer.running_mean.dtype == torch.float32
    assert torch.equal(revert_bn(converted)[1].weight, stock[1].weight)


def _compiled_against_eager(statistics, train_with, backend):
    torch._dynamo.reset()
    eager = convert_bn(network(), statistics, train_with)
    inner = copy.deepcopy(eager)
    counter = torch._dynamo.testing.CompileCounterWithBackend(backend)
    compiled = torch.compile(inner, backend=counter, fullgraph=True)
    for training in (True, False):
        eager.train(training)
        inner.train(training)
        for step, x in enumerate(batches(3)):
            if step == 1:
                compilations = counter.frame_count
            results = [model(x) for model in (eager, compiled)]
            close(results[1], results[0], 1e-10)
            for y in results:
                y.square().sum().backward()
            for a, b in zip(eager.parameters(), inner.parameters(), strict=True):
                assert (a.grad is None) == (b.grad is None)
                if a.grad is not None:
                    close(b.grad, a.grad, 1e-9)
                a.grad = b.grad = None
            for a, b in zip(eager.buffers(), inner.buffers(), strict=True):
                close(b, a, 1e-10)
        assert counter.frame_count == compilations  # nothing changed, so nothing was recompiled
    assert [type(m) for m in inner.modules()] == [type(m) for m in eager.modules()]


# The most usual one is left to inductor.
@pytest.mark.parametrize(
    ("statistics", "train_with"),
    [("learned", "batch"), ("learned", "running"), ("tracked", "running"), ("frozen", "batch")],
)
def test_compiled_equals_eager(statistics, train_with):
    _compiled_against_eager(statistics, train_with, "aot_eager")


def test_compiled_by_inductor_equals_eager():
    _compiled_against_eager("tracked", "batch", "inductor")


@policies
@both_modes
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # the check of the channels
def test_jit_trace(statistics, train_with):
    # `trace` records with gradients and checks its graph without: it raises if they differ.
    model = convert_bn(network(), statistics, train_with).eval()
    with torch.no_grad():
        (model[1].running_var if statistics == "learned" else model[1].bias)[0] *= -1
    first, other = batches(2)
    traced = torch.jit.trace(model, first)
    wanted = [p for p in model.parameters() if p.requires_grad]
    for x in (first, other[:1]):
        close(traced(x), model(x))
        # Statistics are not held constant in it.
        found, expected = (torch.autograd.grad(m(x).sum(), wanted) for m in (traced, model))
        for one, two in zip(found, expected, strict=True):
            close(one, two)
    model.train()
    if train_with == "batch" or statistics != "tracked":
        traced = torch.jit.trace(model, first, check_trace=True)
        close(traced(first), model(first))


@policies
def test_symbolic_trace(statistics):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).double()
    convert_bn(model, statistics)
    traced = torch.fx.symbolic_trace(model)
    x = batches(1)[0]
    for training in (True, False):
        close(traced.train(training)(x), copy.deepcopy(model).train(training)(x))
    assert type(traced.get_submodule("1")) is type(model[1])
