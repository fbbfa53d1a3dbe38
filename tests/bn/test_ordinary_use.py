"""A converted model in ordinary use: optimizers, copies, processes, precision, compilation.

No engine anywhere here. The reference is the same model unconverted, or an equation in a comment.
"""

import copy
import io
import pickle

import pytest
import torch
import torch._dynamo.testing
import torch.fx
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import nn
from torch.func import functional_call, jvp
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from dd_plugin.bn import convert_bn, converted_layers, revert_bn, statistics_in_graph
from dd_plugin.bn.policy import STATISTICS, TRAIN_WITH
from tests.bn.processes import run_fresh, run_on_two

# torch's own, when it imports its forward-mode decompositions or its compiler.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script.*", "ignore:.*is deprecated:DeprecationWarning"
)

policies = pytest.mark.parametrize("statistics", STATISTICS)
both_modes = pytest.mark.parametrize("train_with", TRAIN_WITH)


def network(dtype=torch.float64):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3),
        BatchNormAct2d(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    ).to(dtype)
    for layer in (model[1], model[3]):
        layer.running_mean.uniform_(-0.5, 0.5)
        layer.running_var.uniform_(0.5, 1.5)
    return model


def batches(count, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(6, 3, 8, 8, generator=generator).to(dtype) for _ in range(count)]


def train(model, inputs, make_optimizer=torch.optim.SGD, lr=0.05):
    model.train()
    optimizer = make_optimizer(model.parameters(), lr=lr)
    losses = []
    for x in inputs:
        optimizer.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def close(found, expected, tolerance=1e-12):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# --- an ordinary loop --------------------------------------------------------------------------


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


# --- copies and files --------------------------------------------------------------------------


@policies
@both_modes
def test_deepcopy_and_pickle(statistics, train_with):
    model = convert_bn(network(), statistics, train_with)
    train(model, batches(2))
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies.append(torch.load(file, weights_only=False))
    x = batches(1)[0]
    for one in copies:
        assert [type(m) for m in one.modules()] == [type(m) for m in model.modules()]
        assert list(one.state_dict()) == list(model.state_dict())
        assert torch.equal(one.eval()(x), model.eval()(x))
        assert torch.equal(copy.deepcopy(one).train()(x), copy.deepcopy(model).train()(x))
    deep = copies[0]
    assert {id(p) for p in deep.parameters()}.isdisjoint(id(p) for p in model.parameters())
    revert_bn(deep)
    assert len(converted_layers(model)) == 2
    assert [type(m) for m in deep.modules()] == [type(m) for m in network().modules()]


def test_a_fresh_process_unpickles(tmp_path):
    x = batches(1)[0]
    for statistics in STATISTICS:
        model = convert_bn(network(), statistics)
        train(model, batches(2))
        (tmp_path / f"{statistics}.pickle").write_bytes(pickle.dumps(model.eval()))
        torch.save({"model": model, "x": x, "y": model(x)}, tmp_path / f"{statistics}.pt")
    code = """
import pickle, sys, torch
for statistics in ("learned", "tracked", "frozen"):
    path = f"{sys.argv[1]}/{statistics}"
    first = pickle.load(open(path + ".pickle", "rb"))
    saved = torch.load(path + ".pt", weights_only=False)
    for model in (first, saved["model"]):
        assert torch.equal(model(saved["x"]), saved["y"])
        from dd_plugin.bn import revert_bn
        print(type(model[1]).__name__, type(model[3]).__name__, model[1].statistics, end=" ")
        print(type(revert_bn(model)[3]).__name__)
"""
    assert run_fresh(code, tmp_path).splitlines() == [
        f"LearnableBatchNorm2d LearnableBatchNormAct2d {statistics} BatchNormAct2d"
        for statistics in STATISTICS
        for _ in range(2)
    ]


# --- several processes -------------------------------------------------------------------------


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


class Checkpointed(nn.Module):
    def __init__(self, inner, use_reentrant=False):
        super().__init__()
        self.inner, self.use_reentrant = inner, use_reentrant

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=self.use_reentrant)


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


# --- precision ---------------------------------------------------------------------------------


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


# --- compilation -------------------------------------------------------------------------------


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


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("train_with", TRAIN_WITH)
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


# --- activation checkpointing ------------------------------------------------------------------


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
