"""What a batch is: what is accepted, and what is said of the rest."""

import random

import numpy as np
import pytest
import torch

from tests.bilevel.problems import convnet
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
