"""Problems whose steps are recorded one by one as CUDA graphs, with a stand-in for torch.cuda."""

import copy
import warnings

import pytest
import torch
from torch import nn

from dd_plugin.bilevel import (
    BilevelProblem,
    Device,
    Last,
    RecordingWarning,
    adam,
    hypergradient,
    recorded_run,
    sgd,
)
from dd_plugin.bilevel.tracing import recorded
from tests.bilevel import fake_cuda
from tests.bilevel.problems import convnet, hard_batch, soft_batches, worst_error


@pytest.fixture(autouse=True)
def cuda(monkeypatch):
    monkeypatch.setattr(recorded_run, "MOST_OPERATIONS", 0)  # no run is recorded as a whole
    return fake_cuda.install(monkeypatch)


@pytest.mark.parametrize(
    ("optimizer", "window", "storage"),
    [
        (sgd(0.9), None, Device()),
        (adam(), Last(2), Device()),
        (sgd(), None, Device(activations=1 << 30)),
    ],
)
def test_a_recorded_problem_gives_the_same_bits(cuda, monkeypatch, optimizer, window, storage):
    model = convnet(width=2, dropout=0.4, blocks=1)
    problem = BilevelProblem(model, optimizer=optimizer, compile="trace")
    batches, outer = soft_batches(4), hard_batch()
    options = {"storage": storage, **({} if window is None else {"window": window})}

    def runs(problem):
        return [
            hypergradient(problem, batches, outer, step_size=0.1, seed=seed, **options)
            for seed in range(3)
        ]

    found = runs(problem)
    assert cuda.counts["replays"] > 20
    monkeypatch.setattr(recorded, "on_gpu", lambda tensors: False)
    for a, b in zip(found, runs(problem), strict=True):
        assert worst_error(a, b)[0] == 0.0
        assert torch.equal(a.outer_loss, b.outer_loss)


def test_what_is_written_through_data_between_runs_is_seen():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).double()
    traced = BilevelProblem(model, compile="trace", optimizer=sgd(0.5))
    images, labels = soft_batches(1, shape=(48,))[0]
    outer = hard_batch(shape=(48,))
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    steps = torch.full((3,), 0.1, dtype=torch.float64)
    for number in range(4):
        options = {"step_size": steps, "parameters": start}
        found = hypergradient(traced, [(images, labels)] * 3, outer, **options)
        expected = hypergradient(
            BilevelProblem(model, optimizer=sgd(0.5)), [(images, labels)] * 3, outer, **options
        )
        assert worst_error(found, expected)[0] < 1e-9, number
        for t in (images, labels, *outer[:1], *start.values(), steps):
            t.data.mul_(0.9)


def test_a_deep_copy_of_a_problem_goes_on_by_itself(cuda):
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).double()
    problem = BilevelProblem(model, compile="trace")
    run = (soft_batches(3, shape=(48,)), hard_batch(shape=(48,)))
    expected = hypergradient(problem, *run, step_size=0.1)
    copied = copy.deepcopy(problem)
    assert copied.memory_pool is not problem.memory_pool
    captures = cuda.counts["captures"]
    for _ in range(2):
        assert worst_error(hypergradient(copied, *run, step_size=0.1), expected)[0] == 0.0
        assert worst_error(hypergradient(problem, *run, step_size=0.1), expected)[0] == 0.0
    assert cuda.counts["captures"] > captures
    assert len(cuda.pools) == 2


def test_a_model_that_cannot_be_recorded_trains_all_the_same(cuda, monkeypatch):
    native = fake_cuda.Capture.__torch_dispatch__

    def without_products(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.mm.default or func is torch.ops.aten.addmm.default:
            raise RuntimeError("no products in a capture")
        return native(self, func, types, args, kwargs)

    monkeypatch.setattr(fake_cuda.Capture, "__torch_dispatch__", without_products)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).double()
    run = (soft_batches(4, shape=(48,)), hard_batch(shape=(48,)))
    problem = BilevelProblem(model, compile="trace")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = [hypergradient(problem, *run, step_size=0.1) for _ in range(2)]
    # One for each function of a step that has products; the others are recorded.
    said = [w for w in caught if w.category is RecordingWarning]
    assert len(caught) == len(said) == 3
    assert cuda.counts["replays"] > 0
    expected = hypergradient(BilevelProblem(model), *run, step_size=0.1)
    assert all(worst_error(result, expected)[0] < 1e-9 for result in found)
    assert not problem.runs_eagerly
