"""What a run is made of: what does not fit together is refused before anything is computed."""

from typing import Any, cast

import numpy as np
import pytest
import torch

from dd_plugin.bilevel import BilevelProblem, Full, Host, Last, Random, hypergradient
from dd_plugin.bn import convert_bn
from tests.bilevel.problems import convnet, hard_batch, soft_batches, worst_error
from tests.bilevel.runs import BATCHES, IMAGES, run

ERRORS = {
    "no batch": ({"batches": []}, ValueError, "at least one step"),
    "one pair": ({"batches": BATCHES[0]}, TypeError, r"\[\(images, labels\)\] \* steps"),
    "an iterator": ({"batches": iter(BATCHES)}, TypeError, "got list_iterator; make a list of it"),
    "too few batches": ({"steps": 3}, ValueError, "one batch per step, got 2 for 3"),
    "a function without steps": ({"batches": lambda k: BATCHES[k]}, ValueError, "`steps` must be"),
    "half a step": ({"steps": 1.5}, TypeError, "`steps` must be an integer, got float"),
    "step sizes for three": (
        {"step_size": torch.ones(3)},
        ValueError,
        r"shape \(2,\), one per step",
    ),
    "a word": ({"step_size": "0.1"}, TypeError, "`step_size` must be a number.* got str"),
    "complex": ({"step_size": torch.tensor(1j)}, TypeError, "`step_size` must be a number"),
    "ungrouped": ({"step_size": {"all": 0.1}}, ValueError, "made without groups; pass `groups=`"),
    "window too long": (
        {"window": Last(3)},
        ValueError,
        "longer than the unroll, got 3 of 2 steps",
    ),
    "random too long": (
        {"window": Random(3)},
        ValueError,
        "shorten the window or give more batches",
    ),
    "empty window": ({"window": Last(0)}, ValueError, "at least one step, got 0"),
    "half a window": ({"window": Last(cast("Any", 1.5))}, TypeError, "must be an integer, got 1.5"),
    "a number as window": ({"window": 2}, TypeError, r"such as `Last\(10\)`, got int"),
    "a class as window": ({"window": Full}, TypeError, "got the class Full"),
    "a word as storage": ({"storage": "host"}, TypeError, r"such as `Host\(\)`, got str"),
    "a class as storage": ({"storage": Host}, TypeError, "got the class Host"),
    "unknown method": ({"method": "forward"}, ValueError, "`method` must be"),
    "no seed": ({"seed": None}, TypeError, "`seed` must be an integer, got NoneType"),
    "no model seed": ({"model_seed": 0.5}, TypeError, "`model_seed` must be an integer"),
    "hyperparameter": ({"hyperparameters": {"momentum": 0.9}}, ValueError, "was made without"),
    "constant leaves": ({"leaves": [IMAGES]}, ValueError, "requires a gradient"),
    "one leaf": (
        {"leaves": IMAGES},
        TypeError,
        "a list of tensors, got a tensor.*put it into a list",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_makes_no_run(name):
    options, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message):
        run(**options)


def test_integers_of_numpy_are_integers():
    problem = convnet()
    found = run(problem=problem, seed=np.int64(3), steps=np.int64(2))
    assert worst_error(found, run(problem=problem, seed=3))[0] == 0.0


def test_several_outer_batches_are_their_mean():
    problem = BilevelProblem(convert_bn(convnet(), "tracked"))
    batches, (images, labels) = soft_batches(2), hard_batch(size=6)
    whole = hypergradient(problem, batches, (images, labels), step_size=0.1)
    parts = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    split = hypergradient(problem, batches, parts, step_size=0.1)
    assert worst_error(split, whole)[0] < 1e-11
