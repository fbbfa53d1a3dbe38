"""What the engine asks for twice is the same, or an error that names the step."""

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dd_plugin.bilevel import (
    BilevelProblem,
    Host,
    Last,
    Random,
    Recompute,
    Unrolled,
    hypergradient,
    unroll,
)
from dd_plugin.bilevel.batches import Batches
from tests.bilevel.problems import hard_batch, relative_error, soft_batches, worst_error

STEPS = 4


def model():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def _own_torch():
    generator = torch.Generator().manual_seed(0)
    return lambda k: torch.rand((), generator=generator).double()


def _own_numpy():
    generator = np.random.default_rng(0)
    return lambda k: generator.uniform()


def _own_random():
    generator = random.Random(0)
    return lambda k: generator.random()


def _iterator():
    numbers = itertools.count()
    return lambda k: next(numbers)


def _clock():
    times = []

    def now(k):
        times.append(0)
        return len(times)

    return now


WAYS = [_own_torch, _own_numpy, _own_random, _iterator, _clock]


class Maker:
    """A function of the step that scales learned images by another number on each call."""

    def __init__(self, scale):
        self.scale = scale
        self.images = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
        self.labels = torch.randn(6, 3, dtype=torch.float64).softmax(1)
        self.calls = []
        self.given = {}

    def __call__(self, k):
        self.calls.append(k)
        images = self.images * (1 + 0.1 * self.scale(k))
        self.given.setdefault(k, images.detach())
        return images, self.labels


class Lazy:
    """The same as a sequence that is no list."""

    def __init__(self, maker):
        self.maker = maker

    def __len__(self):
        return STEPS

    def __getitem__(self, k):
        return self.maker(k)


def _run(maker, lazy=False, **options):
    torch.manual_seed(7)
    verify = options.pop("verify", False)
    problem = BilevelProblem(options.pop("model", None) or model(), verify=verify)
    batches = Lazy(maker) if lazy else maker
    return problem, hypergradient(
        problem, batches, hard_batch(shape=(4,)), step_size=0.3, steps=STEPS, seed=3, **options
    )


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("make", WAYS)
def test_a_function_is_called_once_and_what_it_gave_is_right(make, lazy):
    maker = Maker(make())
    problem, result = _run(maker, lazy)
    assert maker.calls == list(range(STEPS))
    given = [(maker.given[k], maker.labels) for k in range(STEPS)]
    torch.manual_seed(7)
    model()
    oracle = hypergradient(
        problem, given, hard_batch(shape=(4,)), step_size=0.3, seed=3, method="autograd"
    )
    assert worst_error(result, oracle)[0] < 1e-9


@pytest.mark.parametrize("options", [{"storage": Recompute(2)}, {"storage": Host(2)}])
@pytest.mark.parametrize("window", [None, Last(2), Random(2)])
def test_once_with_every_window_and_storage(window, options):
    maker = Maker(_own_numpy())
    _, result = _run(maker, window=window, **options)
    assert maker.calls == list(range(result.stop))


@pytest.mark.parametrize("method", ["mixed", "reverse", "autograd"])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("make", WAYS)
def test_with_leaves_another_answer_is_an_error_that_names_the_step(make, lazy, method):
    maker = Maker(make())
    with pytest.raises(ValueError, match=r"got another one for step \d on the way back; draw from"):
        _run(maker, lazy, leaves=[maker.images], method=method)


@pytest.mark.parametrize("lazy", [False, True])
def test_another_answer_is_told_before_a_verification_that_it_would_fail(lazy):
    maker = Maker(_own_numpy())
    with pytest.raises(ValueError, match=r"got another one for step \d on the way back; draw from"):
        _run(maker, lazy, leaves=[maker.images], verify=True)


def test_with_leaves_the_first_step_that_differs_is_named():
    seen = []

    def scale(k):
        seen.append(k)
        return 1.0 + (k == 1 and seen.count(1) > 1)

    maker = Maker(scale)
    with pytest.raises(ValueError, match="got another one for step 1 on"):
        _run(maker, leaves=[maker.images])


@pytest.mark.parametrize("lazy", [False, True])
def test_global_generators_are_replayed_and_a_function_is_called_twice(lazy):
    def scale(k):
        draws = np.random.rand() + random.random()  # noqa: NPY002
        return torch.rand(()).double() + draws

    maker = Maker(scale)
    problem, result = _run(maker, lazy, leaves=[maker.images])
    if not lazy:
        assert sorted(maker.calls) == [0, 0, 1, 1, 2, 2, 3, 3]
    torch.manual_seed(7)
    model()
    oracle = hypergradient(
        problem,
        Lazy(maker) if lazy else maker,
        hard_batch(shape=(4,)),
        step_size=0.3,
        steps=STEPS,
        seed=3,
        leaves=[maker.images],
        method="autograd",
    )
    assert relative_error(result.leaves, oracle.leaves) < 1e-9


def test_a_tensor_that_is_filled_again_in_each_step_is_an_error():
    buffer, labels = torch.empty(6, 4, dtype=torch.float64), torch.zeros(6, dtype=torch.int64)

    def batches(k):
        return buffer.copy_(torch.full((6, 4), float(k + 1))), labels

    with pytest.raises(
        ValueError, match=r"step 2 must stay as it is during the run.*return new tensors"
    ):
        _run(batches)


def test_the_forward_run_alone_asks_once():
    maker = Maker(_own_numpy())
    assert isinstance(unroll(model(), maker, step_size=0.1, steps=STEPS), Unrolled)
    assert maker.calls == list(range(STEPS))


@settings(deadline=None)
@given(
    index=st.integers(0, 6 * 3 * 8 * 8 - 1),
    change=st.floats(1e-2, 1e2),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_one_value_that_differs_is_seen(index, change, dtype):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 3, 8, 8, generator=generator).to(dtype)
    other = images.clone()
    other.view(-1)[index] += change
    answers = iter([images, images.clone(), other])
    batches = Batches(lambda k: (next(answers), torch.arange(6)), 1, 0)
    batches.expect_return(range(1), with_graph=True)
    batches.values(0)
    batches.values(0)
    batches._latest = None
    batches.values(0)
    with pytest.raises(ValueError, match="another one for step 0"):
        batches.check_repeats([bool(alike) for alike in batches.repeats()])


def test_labels_that_differ_are_seen():
    answers = iter([torch.arange(6), torch.tensor([0, 1, 2, 3, 5, 4])])
    batches = Batches(lambda k: (torch.zeros(6, 2), next(answers)), 1, 0)
    batches.expect_return(range(1), with_graph=True)
    batches.values(0)
    batches.values(0)
    with pytest.raises(ValueError, match="another one for step 0"):
        batches.check_repeats([bool(alike) for alike in batches.repeats()])


class _Drawing(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = np.random.default_rng(0)

    def forward(self, x):
        return x * self.generator.uniform(0.5, 1.5)


def test_a_step_that_is_run_again_and_gives_another_loss_is_an_error():
    drawing = nn.Sequential(nn.Linear(4, 3), _Drawing()).double()
    with pytest.raises(RuntimeError, match="step 2 gave another loss when it was run again"):
        _run(soft_batches(STEPS, shape=(4,)), model=drawing, storage=Recompute(2))
