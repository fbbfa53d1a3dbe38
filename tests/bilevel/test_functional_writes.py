"""What a model writes into stays the model's own, and moves as in training."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from dd_plugin.bilevel import BilevelProblem, Device, hypergradient, unroll
from tests.bilevel.in_place import STEPS, out_keyword
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


def network(*steps):
    layers = [layer for step in steps for layer in (Buffered(step), nn.ReLU(inplace=True))]
    return nn.Sequential(nn.Linear(4, 6), *layers, nn.Linear(6, 3))


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


# Three in one trace: which of them is wrong the eager ones say.
THREE = [STEPS[i : i + 3] for i in range(0, len(STEPS), 3)]


@pytest.mark.parametrize(
    ("steps", "how"), [*(([step], False) for step in STEPS), *((three, "trace") for three in THREE)]
)
def test_buffers_move_as_in_training_and_the_models_stay(steps, how):
    model = network(*steps).double()
    final = _check(model, how).final
    # What plain training makes of them.
    trained = copy.deepcopy(model)
    optimizer = torch.optim.SGD(trained.parameters(), 0.3)
    batches = soft_batches(3, shape=(4,))
    run = unroll(BilevelProblem(model), batches, step_size=0.3)
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(trained.train()(x), y).backward()
        optimizer.step()
    for layer in range(1, 2 * len(steps), 2):
        name = f"{layer}.calls"
        assert run.final.counters[name] == final.counters[name] == 3
        moved = run.final.statistics[f"{layer}.kept"]
        torch.testing.assert_close(moved, trained[layer].kept)


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
