"""Whole runs recorded as one CUDA graph each, with a stand-in for torch.cuda on CPU tensors."""

import copy
import warnings

import pytest
import torch
from torch import nn

from dd_plugin.bilevel import (
    BilevelProblem,
    Device,
    Host,
    Last,
    Random,
    Recompute,
    RecordingWarning,
    VerificationError,
    adam,
    hypergradient,
    hypergradients,
    initial_state,
    recorded_run,
    sgd,
)
from dd_plugin.bilevel.tracing import recorded
from tests.bilevel import fake_cuda
from tests.bilevel.problems import WrongTangent, convnet, hard_batch, soft_batches, worst_error


@pytest.fixture(autouse=True)
def cuda(monkeypatch):
    return fake_cuda.install(monkeypatch)


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).double()


def small_run(steps=3):
    return soft_batches(steps, shape=(48,)), hard_batch(shape=(48,))


def assert_same_bits(found, expected):
    assert worst_error(found, expected)[0] == 0.0
    assert torch.equal(found.outer_loss, expected.outer_loss)
    for role in ("parameters", "statistics", "counters", "optimizer"):
        a, b = getattr(found.final, role), getattr(expected.final, role)
        assert all(torch.equal(x, y) for x, y in zip(*map(leaves, (a, b)), strict=True))
    for name in ("method", "start", "stop", "finite", "first_nonfinite", "trajectory_bytes"):
        assert getattr(found, name) == getattr(expected, name), name


def leaves(tree):
    return torch.utils._pytree.tree_leaves(tree)


CASES = {
    "plain": ({"optimizer": sgd()}, {}),
    "momentum, first steps left out": ({"optimizer": sgd(0.9)}, {"window": Last(2)}),
    "adam, another window each time": ({"optimizer": adam()}, {"window": Random(2)}),
    "recomputed": ({"optimizer": adam()}, {"storage": Recompute()}),
    "kept activations": ({"optimizer": sgd(0.5)}, {"storage": Device(activations=1 << 30)}),
    "outer loss in train mode": ({"outer_training": True}, {"model": convnet(2, blocks=1)}),
    "a step size per step": ({}, {"step_size": torch.tensor([0.1, 0.2, 0.3, 0.4]).double()}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_replay_of_a_run_gives_the_bits_of_a_run(cuda, monkeypatch, name):
    how, options = CASES[name]
    options = {"step_size": 0.1, **options}
    model = options.pop("model", None) or convnet(width=2, dropout=0.4, blocks=1)
    problem = BilevelProblem(model, compile="trace", **how)
    sets = [(soft_batches(4), [hard_batch(5), hard_batch(3)]) for _ in range(4)]

    def runs(problem):
        return [hypergradient(problem, *run, seed=seed, **options) for seed, run in enumerate(sets)]

    found = runs(problem)
    assert [bool(r) for r in problem.recordings.by_kind.values()] == [True]
    monkeypatch.setattr(recorded_run, "on_gpu", lambda tensors: False)
    monkeypatch.setattr(recorded, "on_gpu", lambda tensors: False)
    for a, b in zip(found, runs(problem), strict=True):
        assert_same_bits(a, b)


def test_a_run_is_one_replay(cuda):
    problem, seen = BilevelProblem(linear(), compile="trace"), []
    for _ in range(4):
        hypergradient(problem, *small_run(), step_size=0.1)
        seen.append((cuda.counts["captures"], cuda.counts["replays"]))
    # The first run is as it is, so that nothing is recorded that is not used.
    assert seen == [(0, 0), (1, 1), (1, 2), (1, 3)]


def test_leaves_of_batches_made_on_request_get_their_gradients():
    model, (real, real_y) = convnet(2, blocks=1), hard_batch()
    images = torch.randn(6, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)

    def batches(k):
        order = torch.randperm(6)[:4]
        return images[order] * (1 + 0.1 * k), labels[order].softmax(1)

    def runs(compile):
        problem = BilevelProblem(model, compile=compile)
        return [
            hypergradient(
                problem,
                batches,
                (real, real_y),
                steps=4,
                step_size=0.1,
                window=Random(2),
                seed=seed,
                leaves=[images, labels],
            )
            for seed in range(3)
        ]

    for found, expected in zip(runs("trace"), runs(False), strict=True):
        assert worst_error(found, expected)[0] < 1e-9


def test_every_kind_of_run_has_its_recording_up_to_a_number(cuda):
    problem = BilevelProblem(linear(), compile="trace")
    for size in (4, 5, 6, 7, 8, 9):
        run = (soft_batches(2, size=size, shape=(48,)), hard_batch(shape=(48,)))
        expected = hypergradient(BilevelProblem(linear()), *run, step_size=0.1)
        del expected
        for _ in range(2):
            hypergradient(problem, *run, step_size=0.1)
    assert len(problem.recordings.by_kind) == recorded_run.MOST_RECORDINGS
    assert all(problem.recordings.by_kind.values())


def test_batches_that_are_the_same_in_every_step_are_copied_once(cuda, copied):
    problem, (batches, outer) = BilevelProblem(linear(), compile="trace"), small_run(1)
    for _ in range(2):
        hypergradient(problem, batches * 5, outer, step_size=0.1)
    copied.clear()
    found = hypergradient(problem, batches * 5, outer, step_size=0.1)
    # Weight and bias, images and labels, real images and labels, one step size for all.
    assert copied[0] == 2 + 2 + 2 + 1
    expected = hypergradient(
        BilevelProblem(problem.model, compile="trace"), batches * 5, outer, step_size=0.1
    )
    assert worst_error(found, expected)[0] == 0.0
    # Other tensors of the same kinds, one of which is in two places.
    others = [(a.clone(), b) for a, b in batches * 5]
    assert worst_error(hypergradient(problem, others, outer, step_size=0.1), expected)[0] == 0.0


def test_what_is_written_through_data_between_runs_is_seen():
    model = linear()
    model[1].bias.requires_grad_(False)
    problem = BilevelProblem(model, compile="trace", optimizer=sgd(0.5))
    batches, outer = small_run()
    weight, bias = model[1].weight, model[1].bias
    for number in range(4):
        found = hypergradient(problem, batches, outer, step_size=0.1)
        plain = BilevelProblem(model, optimizer=sgd(0.5))
        expected = hypergradient(plain, batches, outer, step_size=0.1)
        assert worst_error(found, expected)[0] < 1e-9, number
        for t in (weight, bias, *outer[:1], *(x for batch in batches for x in batch)):
            t.data.mul_(0.9)


def test_a_loss_that_is_not_finite_is_noticed_in_a_replay():
    problem = BilevelProblem(linear(), compile="trace")
    batches, outer = small_run()
    for _ in range(3):
        assert hypergradient(problem, batches, outer, step_size=0.1).finite
    batches[1][0].fill_(float("inf"))
    result = hypergradient(problem, batches, outer, step_size=0.1)
    assert not result.finite
    assert result.first_nonfinite == 1
    assert all(torch.isnan(b.images).all() for b in result.batches.values())
    batches[1][0].fill_(0.5)
    assert hypergradient(problem, batches, outer, step_size=0.1).finite


def test_the_first_run_is_verified():
    class Sine(nn.Module):
        def forward(self, x):
            return WrongTangent.apply(x)

    problem = BilevelProblem(nn.Sequential(linear(), Sine()), compile="trace")
    for _ in range(2):
        with pytest.raises(VerificationError):
            hypergradient(problem, *small_run(), step_size=0.1)
    assert not any(problem.recordings.by_kind.values())


@pytest.mark.parametrize(
    ("how", "options"),
    [
        ({"compile": False}, {}),
        ({}, {"storage": Host()}),
        ({}, {"storage": Recompute(on_host=True)}),
        ({}, {"method": "reverse"}),
        ({}, {"method": "autograd"}),
        ({"outer_training": True, "model": convnet(2, dropout=0.3, blocks=1)}, {}),
        ({"limit": ("MOST_OPERATIONS", 30)}, {}),
        ({"limit": ("MOST_RECORDINGS", 0)}, {}),
        ({"limit": ("_SHARE_FOR_INPUTS", 1e-9)}, {}),
    ],
)
def test_runs_that_are_not_recorded_as_a_whole(monkeypatch, how, options):
    if "limit" in how:
        monkeypatch.setattr(recorded_run, *how["limit"])
    model = how.get("model", convnet(2, blocks=1))
    more = {"compile": how.get("compile", "trace")}
    if "outer_training" in how:
        more["outer_training"] = True
    problem = BilevelProblem(model, **more)
    run = (soft_batches(3), hard_batch())
    results = [hypergradient(problem, *run, step_size=0.1, **options) for _ in range(3)]
    assert not any(problem.recordings.by_kind.values())
    assert worst_error(results[2], results[0])[0] == 0.0


@pytest.mark.parametrize("out_of_memory", [False, True])
def test_a_run_that_cannot_be_recorded_is_run_step_by_step(cuda, monkeypatch, out_of_memory):
    native, tries = fake_cuda.Capture.__torch_dispatch__, []

    def first_capture_fails(self, func, types, args=(), kwargs=None):
        tries.append(self.graph)
        if tries[0] is self.graph and len(tries) > 20:
            if out_of_memory:
                raise torch.OutOfMemoryError("CUDA out of memory")
            raise RuntimeError("operation not permitted")
        return native(self, func, types, args, kwargs)

    monkeypatch.setattr(fake_cuda.Capture, "__torch_dispatch__", first_capture_fails)
    problem = BilevelProblem(linear(), compile="trace")
    run = small_run(4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = [hypergradient(problem, *run, step_size=0.1) for _ in range(4)]
    assert [w.category for w in caught] == [] if out_of_memory else [RecordingWarning]
    assert cuda.counts["replays"] > 10  # of the steps
    assert list(problem.recordings.by_kind.values()) == [None]
    assert all(worst_error(result, found[0])[0] == 0.0 for result in found)


def test_a_deep_copy_of_a_problem_has_no_recordings(cuda):
    problem, run = BilevelProblem(linear(), compile="trace"), small_run()
    expected = hypergradient(problem, *run, step_size=0.1)
    hypergradient(problem, *run, step_size=0.1)
    copied = copy.deepcopy(problem)
    assert not copied.recordings.by_kind
    for _ in range(3):
        assert worst_error(hypergradient(copied, *run, step_size=0.1), expected)[0] == 0.0
        assert worst_error(hypergradient(problem, *run, step_size=0.1), expected)[0] == 0.0
    assert len(cuda.pools) == 2


def test_networks_that_are_run_as_one_are_recorded(cuda):
    models = [convnet(2, blocks=1) for _ in range(2)]
    problem, run = BilevelProblem(models[0], compile="trace"), (soft_batches(3), hard_batch())
    results = [
        hypergradients(
            problem,
            *run,
            [initial_state(problem, model) for model in models],
            mode="batched",
            step_size=0.1,
        )
        for _ in range(4)
    ]
    assert cuda.counts["captures"] == 1
    assert cuda.counts["replays"] == 3
    for result in results:
        assert worst_error(result.mean, results[0].mean)[0] < 1e-12
