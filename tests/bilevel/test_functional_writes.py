"""What a model writes into stays the model's own, and no trace loses a write."""

import copy

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from dd_plugin.bilevel import BilevelProblem, Device, hypergradient, unroll
from dd_plugin.bilevel.tracing.compile import make_graph
from dd_plugin.bilevel.tracing.simplify import simplify
from dd_plugin.bilevel.tracing.writes import (
    owners,
    replace_private_writes,
    unsteady,
    writes,
    written_memory,
)
from tests.bilevel.problems import (
    assert_unchanged,
    frozen_copy,
    hard_batch,
    relative_error,
    soft_batches,
    worst_error,
)


class Buffered(nn.Module):
    """A layer with a buffer, which a function reads and writes."""

    def __init__(self, step, size=6):
        super().__init__()
        self.step = step
        self.register_buffer("kept", torch.linspace(0.5, 1.5, size))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        with torch.no_grad():
            if self.training:
                self.calls += 1
            self.step(self.kept, x.mean(0))
        return x * self.kept


def in_place(kept, mean):
    kept.mul_(0.9).add_(mean, alpha=0.1)


def out_keyword(kept, mean):
    torch.lerp(kept, mean, 0.1, out=kept)


def several_outputs(kept, mean):
    torch.aminmax(mean.view(2, 3), dim=0, out=(kept[:3], kept[3:]))


def sorted_into_it(kept, mean):
    torch.sort(mean, out=(kept, torch.empty(6, dtype=torch.int64)))


def chunks(kept, mean):
    first, second = kept.chunk(2)
    second.copy_(mean[:3])
    first.add_(second)


def view_of_a_view(kept, mean):
    kept.view(2, 3).t()[1:].reshape(2, 2).mul_(0.5)  # a copy: nothing happens
    kept.view(2, 3).t()[1:].mul_(mean[:4].view(2, 2))


def by_index(kept, mean):
    kept[torch.tensor([0, 3])] = mean[:2]
    kept[1] = mean[2]


def strided(kept, mean):
    torch.as_strided(kept, (3,), (2,), 1).copy_(mean[::2])


def several_at_once(kept, mean):
    torch._foreach_mul_([kept[:2], kept[4:]], 0.5)
    torch._foreach_add_([kept[:2], kept[4:]], [mean[:2], mean[4:]])


def through_data(kept, mean):
    kept.data.mul_(0.5).add_(mean.data)


def swapped(kept, mean):
    before = kept.clone()
    kept.copy_(mean)
    mean = before + kept
    kept.sub_(mean)


def sum_of_negatives(kept, mean):
    negative = -kept
    kept.copy_(mean)
    kept.sub_(negative.sum())


STEPS = [
    in_place,
    out_keyword,
    several_outputs,
    sorted_into_it,
    chunks,
    view_of_a_view,
    by_index,
    strided,
    several_at_once,
    through_data,
    swapped,
    sum_of_negatives,
]


def spectral():
    parametrize = nn.utils.parametrizations
    first = parametrize.spectral_norm(nn.Linear(4, 6))
    return nn.Sequential(first, nn.Tanh(), parametrize.spectral_norm(nn.Linear(6, 3))).double()


def old_spectral():
    return nn.Sequential(
        nn.utils.spectral_norm(nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, 3)
    ).double()


class Teacher(nn.Module):
    """A student that learns from the moving average of its own weights, which is no buffer."""

    def __init__(self):
        super().__init__()
        self.student = nn.Linear(4, 6)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        if self.training:
            for slow, fast in zip(
                self.teacher.parameters(), self.student.parameters(), strict=True
            ):
                slow.data.mul_(0.9).add_(fast.data, alpha=0.1)
        return self.head(torch.tanh(self.student(x)) + self.teacher(x))


def network(step):
    return nn.Sequential(nn.Linear(4, 6), Buffered(step), nn.ReLU(inplace=True), nn.Linear(6, 3))


def _difference(state, other):
    return relative_error(*(pytree.tree_map(torch.Tensor.double, s) for s in (state, other)))


def _check(model, how, storage=None):
    before = frozen_copy(model)
    batches, outer = soft_batches(3, shape=(4,)), hard_batch(shape=(4,))
    problem = BilevelProblem(model, compile=how)
    eager = BilevelProblem(model)
    oracle = hypergradient(eager, batches, outer, step_size=0.3, method="autograd")
    for _ in range(2):
        result = hypergradient(problem, batches, outer, step_size=0.3, storage=storage)
        assert worst_error(result, oracle)[0] < 1e-9
        assert _difference(result.final, oracle.final) < 1e-12
        assert_unchanged(model, before)
    run = unroll(problem, batches, step_size=0.3)
    assert _difference(run.final, oracle.final) < 1e-12
    assert_unchanged(model, before)
    assert problem.compiling == how
    return oracle


@pytest.mark.parametrize("how", [False, "trace"])
@pytest.mark.parametrize("step", STEPS)
def test_buffers_move_as_in_training_and_the_models_stay(step, how):
    model = network(step).double()
    final = _check(model, how).final
    # What plain training makes of them.
    trained = copy.deepcopy(model)
    optimizer = torch.optim.SGD(trained.parameters(), 0.3)
    batches = soft_batches(3, shape=(4,))
    run = unroll(BilevelProblem(model, compile=how), batches, step_size=0.3)
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(trained.train()(x), y).backward()
        optimizer.step()
    assert run.final.counters["1.calls"] == final.counters["1.calls"] == 3
    torch.testing.assert_close(run.final.statistics["1.kept"], trained[1].kept)


@pytest.mark.parametrize("how", [False, "trace"])
@pytest.mark.parametrize("make", [spectral, old_spectral, Teacher])
def test_vectors_of_power_iterations_and_teachers(make, how):
    final = _check(make().double(), how).final
    assert final.statistics


def test_activations_kept_of_a_model_that_writes():
    _check(network(out_keyword).double(), "trace", Device(activations=1 << 30))


def test_a_compiled_model_that_writes():
    _check(network(out_keyword).double(), True)


class _Writing(nn.Module):
    """Writes in eval mode as well."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        return x * (1 + self.seen)


@pytest.mark.parametrize("how", [False, "trace"])
def test_what_is_written_in_eval_mode_changes_no_state(how):
    model = nn.Sequential(nn.Linear(4, 6), _Writing(), nn.Linear(6, 3)).double()
    oracle = _check(model, how)
    assert oracle.final.statistics["1.seen"] == 3


class _Rescaled(nn.Linear):
    def forward(self, x):
        with torch.no_grad():
            self.weight.div_(self.weight.norm())
        return super().forward(x)


def test_a_model_that_writes_into_what_is_trained_is_an_error():
    model = nn.Sequential(_Rescaled(4, 6), nn.Linear(6, 3)).double()
    before = frozen_copy(model)
    with pytest.raises(ValueError, match=r"writes into its parameter '0\.weight'"):
        unroll(model, soft_batches(1, shape=(4,)), step_size=0.3)
    assert_unchanged(model, before)


# --- graphs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_graphs_write_into_nothing(step):
    def function(tensors):
        kept, mean = tensors[0].clone(), tensors[1]
        step(kept, mean)
        return [kept, kept * mean]

    tensors = [torch.linspace(0.5, 1.5, 6), torch.randn(6)]
    expected = function(tensors)
    before = [t.clone() for t in tensors]
    graph = make_graph(function, tensors)
    assert not any(map(writes, graph.graph.nodes))
    simplify(graph)
    torch.testing.assert_close(graph(tensors), expected)
    assert all(map(torch.equal, tensors, before))


@pytest.mark.parametrize("step", STEPS)
def test_graphs_do_not_write_into_their_inputs(step):
    def function(tensors):
        step(*tensors)
        return [tensors[0] * 2]

    tensors = [torch.linspace(0.5, 1.5, 6), torch.randn(6)]
    before = [t.clone() for t in tensors]
    expected = function([t.clone() for t in tensors])
    graph = make_graph(function, tensors)
    torch.testing.assert_close(graph(tensors), expected)
    assert all(map(torch.equal, tensors, before))


@pytest.mark.parametrize("step", STEPS)
def test_passes_respect_writes_where_they_are_left(step):
    def function(kept, mean):
        kept = kept.clone()
        first = kept * mean + (-kept).sum()
        step(kept, mean)
        return [first, kept, kept * mean + (-kept).sum()]

    tensors = [torch.linspace(0.5, 1.5, 6), torch.randn(6)]
    expected = function(*tensors)
    before = [t.clone() for t in tensors]
    graph = make_fx(function, tracing_mode="fake")(*tensors)
    copied = next(node for node in graph.graph.nodes if node.op == "call_function")
    assert written_memory(graph.graph) >= {copied}
    assert copied in unsteady(graph.graph)
    assert owners(copied) == {copied}
    simplify(graph)
    torch.testing.assert_close(graph(*tensors), expected)
    assert all(map(torch.equal, tensors, before))


def test_private_writes_are_replaced_and_others_are_not():
    def function(x, mask):
        first = (x * 2).mul_(x)  # nothing else sees it
        second = x + 1
        third = second * x
        second.div_(third)  # its only reader came before
        fourth = x - 1
        view = fourth.view(-1)
        fourth.add_(x)  # the view sees it
        fifth = x.exp()
        fifth.add_(1)
        kept = (x > 0).logical_and_(mask)  # stays bool
        count = x.clone()
        count.logical_and_(mask)  # stays floating point
        return [first, second, view * 2, fifth * fifth, kept, count]

    tensors = [torch.randn(6), torch.arange(6) % 2 == 0]
    expected = function(*tensors)
    graph = make_fx(function, tracing_mode="fake")(*tensors)
    replace_private_writes(graph)
    left = sorted(str(node.target) for node in graph.graph.nodes if writes(node))
    assert left == ["aten.add_.Tensor", "aten.logical_and_.default"]
    for actual, wanted in zip(graph(*tensors), expected, strict=True):
        assert torch.equal(actual, wanted)
        assert actual.dtype == wanted.dtype


def test_a_write_into_an_empty_tensor_is_no_write_into_another():
    class Padded(nn.Module):
        """Has a parameter and a buffer without values, and writes into the latter."""

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)
            self.unused = nn.Parameter(torch.empty(0))
            self.register_buffer("log", torch.empty(0))

        def forward(self, x):
            with torch.no_grad():
                self.log.add_(1)
            return self.linear(x) + self.unused.sum()

    batch = torch.randn(3, 2), torch.tensor([0, 1, 0])
    found = unroll(BilevelProblem(Padded()), [batch], step_size=0.1)
    assert found.final.parameters["unused"].shape == (0,)
