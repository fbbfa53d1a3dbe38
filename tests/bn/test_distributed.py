"""Statistics over two processes are those of one that has the whole batch."""

import pytest
import torch
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.func import functional_call, jvp

from dd_plugin.bn import convert_bn, statistics_in_graph
from dd_plugin.bn.policy import STATISTICS
from tests.bn.networks import batches, close, network
from tests.bn.processes import run_on_two

# torch's own, when it imports its forward-mode decompositions or its compiler.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script.*", "ignore:.*is deprecated:DeprecationWarning"
)
SPLITS = {"equal": 3, "unequal": 2}


def synchronised():
    return convert_sync_batchnorm(network())


def _forward_mode(model, x):
    """The change of the outputs when every parameter and statistic grows at rate 1."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    tensors = {name: t.detach() for name, t in tensors.items() if t.is_floating_point()}
    counts = {n: b for n, b in model.named_buffers() if not b.is_floating_point()}
    tangents = {name: torch.ones_like(t) for name, t in tensors.items()}

    def run(moving):
        with statistics_in_graph():
            return functional_call(model.train(), {**moving, **counts}, (x,))

    return jvp(run, (tensors,), (tangents,))[1]


def _sync_run(rank, statistics, split):
    model = convert_bn(synchronised(), statistics).train()
    x = batches(1)[0]
    x = (x[:split] if rank == 0 else x[split:]).requires_grad_()
    y = model(x)
    # The sum over processes of local losses is the whole loss; so are the sums of gradients.
    gradients = torch.autograd.grad(y.square().sum(), [x, model[0].weight, model[1].weight])

    tangent = _forward_mode(convert_bn(synchronised(), statistics), x.detach())
    return y.detach(), gradients, model.state_dict(), tangent.detach()


def _sync_runs(rank, cases):
    return [_sync_run(rank, *case) for case in cases]


def test_synchronised_layers_see_the_whole_batch(tmp_path):
    """Two processes against one: outputs, gradients, moving averages, forward mode; float64."""
    cases = [(s, split) for s in STATISTICS for split in SPLITS.values()]
    results = run_on_two(_sync_runs, tmp_path, cases)
    for case, first, second in zip(cases, *results, strict=True):
        model = convert_bn(network(), case[0]).train()
        x = batches(1)[0].requires_grad_()
        y = model(x)
        gradients = torch.autograd.grad(y.square().sum(), [x, model[0].weight, model[1].weight])
        close(torch.cat([first[0], second[0]]), y.detach())
        close(torch.cat([first[1][0], second[1][0]]), gradients[0], 1e-10)
        for a, b, expected in zip(first[1][1:], second[1][1:], gradients[1:], strict=True):
            close(a + b, expected, 1e-10)
        for name, value in model.state_dict().items():
            close(first[2][name], value)
            close(second[2][name], value)
        tangent = _forward_mode(convert_bn(network(), case[0]), x.detach())
        assert tangent.abs().max() > 0.1
        close(torch.cat([first[3], second[3]]), tangent, 1e-10)


def one_of_two(rank, sizes):
    """What a synchronised layer computes in a process whose batches have these sizes."""
    layer = convert_bn(nn.SyncBatchNorm(2).double(), "tracked").train()
    for step, of_ranks in enumerate(sizes):
        torch.manual_seed(step)
        x = torch.randn(sum(of_ranks), 2, 3, dtype=torch.float64)
        y = layer(x.split(of_ranks)[rank])
        assert y.isfinite().all()
    return layer.state_dict()


def test_a_process_may_have_nothing(tmp_path):
    sizes = [(4, 0), (0, 0), (0, 3)]  # in the second step, nobody has
    states = run_on_two(one_of_two, tmp_path, sizes)
    expected = nn.BatchNorm1d(2).double().train()
    for step, of_ranks in enumerate(sizes):
        torch.manual_seed(step)
        expected(torch.randn(sum(of_ranks), 2, 3, dtype=torch.float64))
    for state in states:
        torch.testing.assert_close(dict(state), dict(expected.state_dict()))
