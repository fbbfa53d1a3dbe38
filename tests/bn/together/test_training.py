"""A converted model in an ordinary loop: optimizers, clipping, checkpointing, several processes."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dd_plugin.bn import convert_bn, converted_layers, revert_bn
from dd_plugin.bn.policy import STATISTICS, TRAIN_WITH
from tests.bn.networks import Checkpointed, batches, both_modes, close, network, policies, train
from tests.bn.processes import run_on_two

# torch's own, when it imports its forward-mode decompositions or its compiler.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script.*", "ignore:.*is deprecated:DeprecationWarning"
)


@policies
def test_training_with_the_batch_is_that_of_the_stock_model(statistics):
    stock, converted = network(), convert_bn(network(), statistics)
    losses = train(stock, batches(5)), train(converted, batches(5))
    close(losses[1], losses[0])
    for name, parameter in stock.named_parameters():
        close(converted.get_parameter(name), parameter)
    start = network().state_dict()
    for name, value in converted.state_dict().items():
        if "running" in name or "num_batches" in name:
            # "tracked" moves them as the stock layer does; nothing reaches the others here.
            close(value, stock.state_dict()[name] if statistics == "tracked" else start[name])


@policies
def test_training_with_the_running_statistics_is_that_of_an_eval_mode_layer(statistics):
    stock, converted = network(), convert_bn(network(), statistics, "running")
    x = batches(1)[0]
    for layer in (stock[1], stock[3]):
        layer.eval()
    stock.requires_grad_(True)
    close(converted.train()(x), stock(x))
    gradients = [
        torch.autograd.grad(m(x).square().sum(), [m[0].weight, m[3].weight, m[6].bias])
        for m in (stock, network_with(statistics))
    ]
    for found, expected in zip(gradients[1], gradients[0], strict=True):
        close(found, expected)


def network_with(statistics):
    return convert_bn(network(), statistics, "running").train()


@policies
@both_modes
@pytest.mark.parametrize(
    "make_optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop]
)
def test_loops_converge_and_leave_no_graph(statistics, train_with, make_optimizer):
    model = convert_bn(network(), statistics, train_with)
    losses = train(model, batches(1) * 25, make_optimizer, lr=0.02)
    assert losses[-1] < 0.5 * losses[0]
    for buffer in model.buffers():
        assert buffer.grad_fn is None
    for name, layer in converted_layers(model).items():
        assert layer.running_var is model.state_dict(keep_vars=True)[f"{name}.running_var"]
    x = batches(1)[0]
    y = model.eval()(x)
    close(revert_bn(model)(x), y)


def test_optimizer_made_before_conversion_goes_on():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(batches(1)[0]).sum().backward()
    optimizer.step()
    before = [p.clone() for p in model.parameters()]
    convert_bn(model)
    optimizer.zero_grad()
    model(batches(1)[0]).square().sum().backward()
    optimizer.step()
    revert_bn(model)
    moved = [not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True)]
    assert all(moved)


def test_gradient_clipping_counts_learned_statistics():
    model = convert_bn(network()).eval()
    model(batches(1)[0]).square().sum().backward()
    gradients = [p.grad for p in model.parameters()]
    assert model[1].running_var.grad.abs().sum() > 0
    expected = torch.stack([g.norm() for g in gradients]).norm()
    close(nn.utils.clip_grad_norm_(model.parameters(), 0.1), expected)
    close(torch.stack([g.norm() for g in gradients]).norm().item(), 0.1, 1e-5)


def _ddp_run(rank, statistics, train_with, how):
    model = convert_bn(network(), statistics, train_with).train()
    inner = model
    if how == "compiled":
        model = torch.compile(model, backend="aot_eager")
    elif how.startswith("checkpoint"):
        model = Checkpointed(model, use_reentrant=how == "checkpoint, reentrant")
    model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(inner.parameters(), lr=0.05)
    gradients = []
    for x in batches(3):
        optimizer.zero_grad()
        x = x[:3] if rank == 0 else x[3:]
        model(x.requires_grad_()).square().sum().backward()
        gradients = [p.grad for p in inner.parameters()]
        optimizer.step()
    return gradients, inner.state_dict()


def _ddp_runs(rank, cases):
    return [_ddp_run(rank, *case) for case in cases]


def test_ddp_for_every_policy(tmp_path):
    cases = [(s, t, "eager") for s in STATISTICS for t in TRAIN_WITH]
    # Learned statistics are in no train-mode output: what DDP calls unused parameters.
    cases += [("learned", "batch", how) for how in ("compiled", "checkpoint")]
    cases += [("learned", "batch", "checkpoint, reentrant")]
    results = run_on_two(_ddp_runs, tmp_path, cases)
    for case, (first, state), (second, _) in zip(cases, *results, strict=True):
        names = [n for n, _ in convert_bn(network(), case[0]).named_parameters()]
        for name, a, b in zip(names, first, second, strict=True):
            assert torch.equal(a, b), (case, name)
            in_the_loss = "running" not in name or case[1] == "running"
            assert (a.abs().sum() > 0) == in_the_loss, (case, name)
        moved = not torch.equal(state["1.running_mean"], network()[1].running_mean)
        assert moved == (case[0] == "tracked" or case[:2] == ("learned", "running"))


@pytest.mark.parametrize("use_reentrant", [False, True])
@both_modes
@pytest.mark.parametrize("statistics", ["learned", "tracked"])
def test_activation_checkpointing(statistics, train_with, use_reentrant):
    plain = convert_bn(network(), statistics, train_with).train()
    inner = copy.deepcopy(plain)
    if train_with == "running" and statistics == "tracked":
        # Recomputation would see moved statistics; one forward is exact at momentum 0.
        for model in (plain, inner):
            model[1].momentum = model[3].momentum = 0.0
    x = batches(1)[0].requires_grad_()
    gradients = []
    for model, parameters in (
        (plain, list(plain.parameters())),
        (Checkpointed(inner, use_reentrant), list(inner.parameters())),
    ):
        model(x).square().sum().backward()
        gradients.append([p.grad for p in parameters])
    for found, expected in zip(gradients[1], gradients[0], strict=True):
        assert (found is None) == (expected is None)
        if found is not None:
            close(found, expected)
    if statistics == "tracked":
        # As a stock layer would, it saw the batch twice, once for the recomputation.
        assert inner[1].num_batches_tracked == 2 * plain[1].num_batches_tracked == 2
