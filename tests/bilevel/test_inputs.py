"""Batches and step sizes: what is accepted, and what is said of the rest."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dd_plugin.bilevel import BilevelProblem
from tests.bilevel.problems import convnet, relative_error, worst_error
from tests.bilevel.runs import BATCHES, IMAGES, INDICES, LABELS, run

# One of two batches is wrong: the second, so that nothing relies on the first alone.
BATCH_ERRORS = {
    "no pair": (
        IMAGES,
        TypeError,
        r"batch 1 must be a pair .* got a tensor of shape \(6, 3, 8, 8\)",
    ),
    "no tensors": ((IMAGES, [0] * 6), TypeError, r"got \(a tensor of .*, list\)"),
    "fewer labels": ((IMAGES, LABELS[:3]), ValueError, "as many labels as images"),
    "empty": ((IMAGES[:0], LABELS[:0]), ValueError, "and at least one"),
    "integer images": (
        (IMAGES.byte(), LABELS),
        TypeError,
        "must be floating point.*normalize them",
    ),
    "float32 images": (
        (IMAGES.float(), LABELS),
        TypeError,
        "batch 1 must have the dtype of the model",
    ),
    "images elsewhere": (
        (IMAGES.to("meta"), LABELS),
        ValueError,
        "images of batch 1 .* got meta; move",
    ),
    "labels elsewhere": (
        (IMAGES, LABELS.to("meta")),
        ValueError,
        "labels of batch 1 .* got meta; move",
    ),
    "boolean labels": ((IMAGES, INDICES.bool()), TypeError, r"got torch.bool; convert them with"),
    "a class too many": (
        (IMAGES, INDICES + 3),
        ValueError,
        r"labels of batch 1 must lie in 0 \.\. 2",
    ),
    "a class below 0": (
        (IMAGES, INDICES - 1),
        ValueError,
        r"got -1 \.\. -1; give the model as many",
    ),
    "indices in a column": (
        (IMAGES, INDICES[:, None]),
        ValueError,
        r"must be of shape \(N,\), got",
    ),
    "a column too few": ((IMAGES, LABELS[:, :2]), ValueError, "batch 1 must have 3 columns"),
    "indices as floats": ((IMAGES, LABELS[:, 0]), ValueError, "class indices must be int64"),
    "a channel too few": ((IMAGES[:, :2], LABELS), ValueError, "does not run in train mode on the"),
}


@pytest.mark.parametrize("as_function", [False, True])
@pytest.mark.parametrize("name", BATCH_ERRORS)
def test_batches_that_do_not_fit(name, as_function):
    wrong, kind, message = BATCH_ERRORS[name]
    pair = [BATCHES[0], wrong]
    batches, options = (lambda k: pair[k], {"steps": 2}) if as_function else (pair, {})
    with pytest.raises(kind, match=message):
        run(batches, **options)


def test_labels_may_be_small_integers():
    problem = convnet()
    expected = run([(IMAGES, INDICES)] * 2, problem=problem)
    for dtype in (torch.int32, torch.uint8):
        found = run([(IMAGES, INDICES.to(dtype))] * 2, problem=problem)
        assert relative_error(found.parameters, expected.parameters) == 0.0


def test_losses_of_torch_leave_out_what_they_ignore():
    some = torch.tensor([0, 1, 2, -100, -100, 0])
    for loss in (nn.CrossEntropyLoss(), F.cross_entropy):
        result = run([(IMAGES, some)], problem=BilevelProblem(convnet(), inner_loss=loss))
        assert result.finite
        # Ignored images take part in the statistics of the batch alone.
        assert float(result.batches[0].images[0].norm()) > 0
        with pytest.raises(ValueError, match=r"must lie in 0 \.\. 2"):
            run([(IMAGES, some + 1)], problem=BilevelProblem(convnet(), inner_loss=loss))


def test_other_losses_decide_what_their_labels_are():
    # A hinge loss with labels of -1 and 1, in columns.
    def hinge(scores, signs):
        return (1 - signs * scores).relu().mean()

    signs = torch.where(LABELS > 0.3, 1, -1)
    problem = BilevelProblem(convnet(), inner_loss=hinge)
    result = run([(IMAGES, signs)] * 2, problem=problem)
    oracle = run([(IMAGES, signs)] * 2, problem=problem, method="autograd")
    assert worst_error(result, oracle)[0] < 1e-9


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_step_sizes_may_be_any_sequence(kind):
    problem = convnet()
    expected = run(problem=problem, step_size=torch.tensor([0.1, 0.2], dtype=torch.float64))
    found = run(problem=problem, step_size=kind([0.1, 0.2]))
    # torch.tensor rounds to float32.
    tolerance = 1e-6 if kind is torch.tensor else 1e-14
    assert relative_error(found.step_size, expected.step_size) < tolerance


def test_a_function_draws_the_same_numbers_on_the_way_back():
    pool = torch.randn(6, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    drawn = {0: [], 1: []}

    def batch(step):
        numbers = (random.random(), np.random.rand(), float(torch.rand(())))  # noqa: NPY002
        drawn[step].append(numbers)
        return pool * sum(numbers), LABELS

    problem = convnet()
    before = random.getstate(), torch.get_rng_state()
    run(batch, problem=problem, steps=2, leaves=[pool])
    for numbers in drawn.values():
        assert len(numbers) > 1
        assert len(set(numbers)) == 1
    assert drawn[0][0] != drawn[1][0]
    assert before[0] == random.getstate()
    assert torch.equal(before[1], torch.get_rng_state())
