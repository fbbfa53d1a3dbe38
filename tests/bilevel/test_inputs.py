"""What goes into a run: what is accepted, and what is said of the rest."""

import random
from typing import Any, cast

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from dd_plugin.bilevel import (
    BilevelProblem,
    Full,
    Host,
    Last,
    Random,
    adam,
    hypergradient,
    hypergradients,
    initial_state,
    sgd,
)
from tests.bilevel.problems import convnet, hard_batch, relative_error, soft_batches, worst_error

BATCHES, OUTER = soft_batches(2), hard_batch()
IMAGES, LABELS = BATCHES[0]
INDICES = torch.zeros(6, dtype=torch.int64)


def _run(batches=BATCHES, outer=OUTER, problem=None, **options):
    problem = convnet() if problem is None else problem
    return hypergradient(problem, batches, outer, **{"step_size": 0.1, **options})


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
        _run(batches, **options)


OTHER_ERRORS = {
    "no batch": ({"batches": []}, ValueError, "at least one step"),
    "one pair": ({"batches": BATCHES[0]}, TypeError, r"\[\(images, labels\)\] \* steps"),
    "an iterator": ({"batches": iter(BATCHES)}, TypeError, "got list_iterator; make a list of it"),
    "too few batches": ({"steps": 3}, ValueError, "one batch per step, got 2 for 3"),
    "a function without steps": ({"batches": lambda k: BATCHES[k]}, ValueError, "`steps` must be"),
    "half a step": ({"steps": 1.5}, TypeError, "`steps` must be an integer, got float"),
    "no outer batch": ({"outer": []}, ValueError, "`outer_batch` must hold at least one"),
    "an empty outer batch": ({"outer": (OUTER[0][:0], OUTER[1][:0])}, ValueError, "at least one"),
    "outer labels": ({"outer": (OUTER[0], OUTER[1] + 3)}, ValueError, "labels of the outer batch"),
    "outer float32": ({"outer": (OUTER[0].float(), OUTER[1])}, TypeError, "the outer batch must"),
    "outer elsewhere": ({"outer": (OUTER[0].to("meta"), OUTER[1])}, ValueError, "got meta; move"),
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
    "unknown weights": (
        {"parameters": {"w": IMAGES}},
        ValueError,
        "none of the model's parameters",
    ),
    "weights of a shape": (
        {"parameters": {"9.bias": IMAGES}},
        ValueError,
        r"must have shape \(3,\)",
    ),
    "a list of weights": ({"parameters": [IMAGES]}, TypeError, "a mapping from name to tensor"),
    "constant leaves": ({"leaves": [IMAGES]}, ValueError, "requires a gradient"),
    "one leaf": (
        {"leaves": IMAGES},
        TypeError,
        "a list of tensors, got a tensor.*put it into a list",
    ),
    "no state": ({"initial": {}}, TypeError, "`initial` must be a RunState"),
}


@pytest.mark.parametrize("name", OTHER_ERRORS)
def test_other_inputs_that_do_not_fit(name):
    options, kind, message = OTHER_ERRORS[name]
    with pytest.raises(kind, match=message):
        _run(**options)


PROBLEM_ERRORS = {
    "optimizer of torch": (
        {"optimizer": torch.optim.SGD([IMAGES])},
        TypeError,
        "one of the engine's",
    ),
    "uncalled": (
        {"optimizer": sgd},
        TypeError,
        r"such as `sgd\(0.9\)` or `adam\(\)`, got function",
    ),
    "a word as loss": ({"inner_loss": "ce"}, TypeError, "`inner_loss` must be a function"),
    "unreduced": (
        {"inner_loss": nn.CrossEntropyLoss(reduction="none")},
        ValueError,
        "a scalar tensor",
    ),
    "a float": ({"outer_loss": lambda x, y: 1.0}, ValueError, "a scalar tensor, got float"),
}


@pytest.mark.parametrize("name", PROBLEM_ERRORS)
def test_problems_that_do_not_fit(name):
    options, kind, message = PROBLEM_ERRORS[name]
    with pytest.raises(kind, match=message):
        _run(problem=BilevelProblem(convnet(), **options))


def test_states_of_another_run():
    problem = BilevelProblem(convnet(), optimizer=adam())
    with pytest.raises(ValueError, match=r"'0\.weight' differs; it seems to be of another model"):
        _run(problem=problem, initial=initial_state(BilevelProblem(convnet(width=4))))
    with pytest.raises(ValueError, match=r"what adam keeps, .*, got \[\]"):
        _run(problem=problem, initial=_run(problem=convnet()).final)
    several = [initial_state(problem), initial_state(BilevelProblem(convnet(width=4)))]
    for mode in ("sequential", "batched"):
        with pytest.raises(ValueError, match="seems to be of another model"):
            hypergradients(problem, BATCHES, OUTER, several, mode=mode, step_size=0.1)


def test_groups_are_a_function():
    with pytest.raises(TypeError, match="of a mapping pass its `get` method"):
        sgd(groups={"0.weight": "first"})


def test_a_model_that_fails_on_the_outer_batch_says_on_what():
    with pytest.raises(RuntimeError) as caught:
        _run(outer=(OUTER[0][:, :2], OUTER[1]))
    assert (
        "judging the trained network on a tensor of shape (5, 2, 8, 8)" in caught.value.__notes__[0]
    )


def test_inference_mode_is_named():
    with torch.inference_mode(), pytest.raises(RuntimeError, match="call it outside"):
        _run()


def test_labels_may_be_small_integers():
    problem = convnet()
    expected = _run([(IMAGES, INDICES)] * 2, problem=problem)
    for dtype in (torch.int32, torch.uint8):
        found = _run([(IMAGES, INDICES.to(dtype))] * 2, problem=problem)
        assert relative_error(found.parameters, expected.parameters) == 0.0


def test_losses_of_torch_leave_out_what_they_ignore():
    some = torch.tensor([0, 1, 2, -100, -100, 0])
    for loss in (nn.CrossEntropyLoss(), F.cross_entropy):
        result = _run([(IMAGES, some)], problem=BilevelProblem(convnet(), inner_loss=loss))
        assert result.finite
        # Ignored images take part in the statistics of the batch alone.
        assert float(result.batches[0].images[0].norm()) > 0
        with pytest.raises(ValueError, match=r"must lie in 0 \.\. 2"):
            _run([(IMAGES, some + 1)], problem=BilevelProblem(convnet(), inner_loss=loss))


def test_other_losses_decide_what_their_labels_are():
    # A hinge loss with labels of -1 and 1, in columns.
    def hinge(scores, signs):
        return (1 - signs * scores).relu().mean()

    signs = torch.where(LABELS > 0.3, 1, -1)
    problem = BilevelProblem(convnet(), inner_loss=hinge)
    result = _run([(IMAGES, signs)] * 2, problem=problem)
    oracle = _run([(IMAGES, signs)] * 2, problem=problem, method="autograd")
    assert worst_error(result, oracle)[0] < 1e-9


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_step_sizes_may_be_any_sequence(kind):
    problem = convnet()
    expected = _run(problem=problem, step_size=torch.tensor([0.1, 0.2], dtype=torch.float64))
    found = _run(problem=problem, step_size=kind([0.1, 0.2]))
    # torch.tensor rounds to float32.
    tolerance = 1e-6 if kind is torch.tensor else 1e-14
    assert relative_error(found.step_size, expected.step_size) < tolerance


def test_step_sizes_in_a_list_reach_their_leaves():
    alpha = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    problem = convnet()
    result = _run(problem=problem, step_size=[alpha, 2 * alpha, 0.3][:2], leaves=[alpha])
    assert (
        relative_error(result.leaves[0], result.step_size @ torch.tensor([1.0, 2.0]).double())
        < 1e-14
    )
    assert float(result.leaves[0]) != 0


def test_a_function_draws_the_same_numbers_on_the_way_back():
    pool = torch.randn(6, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    drawn = {0: [], 1: []}

    def batch(step):
        numbers = (random.random(), np.random.rand(), float(torch.rand(())))  # noqa: NPY002
        drawn[step].append(numbers)
        return pool * sum(numbers), LABELS

    problem = convnet()
    before = random.getstate(), torch.get_rng_state()
    _run(batch, problem=problem, steps=2, leaves=[pool])
    for numbers in drawn.values():
        assert len(numbers) > 1
        assert len(set(numbers)) == 1
    assert drawn[0][0] != drawn[1][0]
    assert before[0] == random.getstate()
    assert torch.equal(before[1], torch.get_rng_state())


def test_integers_of_numpy_are_integers():
    problem = convnet()
    found = _run(problem=problem, seed=np.int64(3), steps=np.int64(2))
    assert worst_error(found, _run(problem=problem, seed=3))[0] == 0.0


class _WithLoss(nn.Module):
    """A Hugging Face model that returns a loss beside its logits."""

    def __init__(self):
        super().__init__()
        config = transformers.ResNetConfig(
            embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", num_labels=3
        )
        self.inner = transformers.ResNetForImageClassification(config).double()

    def forward(self, x):
        return self.inner(x, labels=torch.zeros(len(x), dtype=torch.int64))


EDGES = {
    "one step": lambda: (convnet(), BATCHES[:1], OUTER),
    "one image": lambda: (convnet(), [(IMAGES[:1], LABELS[:1])] * 2, OUTER),
    "one outer image": lambda: (convnet(), BATCHES, (OUTER[0][:1], OUTER[1][:1])),
    "sizes differ": lambda: (convnet(), [BATCHES[0], (IMAGES[:2], LABELS[:2])], OUTER),
    "hard after soft": lambda: (convnet(), [BATCHES[0], (IMAGES, INDICES)], OUTER),
    "eval mode": lambda: (convnet().eval(), BATCHES, OUTER),
    "no BatchNorm": lambda: (
        nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).double(),
        BATCHES,
        OUTER,
    ),
    "output with a loss": lambda: (_WithLoss(), BATCHES, OUTER),
    "no gradients": lambda: (convnet(dropout=0.2), BATCHES, OUTER),
}


@pytest.mark.parametrize("name", EDGES)
def test_edges(name):
    model, batches, outer = EDGES[name]()
    with torch.set_grad_enabled(name != "no gradients"):
        oracle = _run(batches, outer, model, method="autograd")
        for method in ("mixed", "reverse"):
            result = _run(batches, outer, model, method=method)
            assert result.finite
            assert worst_error(result, oracle)[0] < 1e-9


def test_half_precision_weights_run():
    # The trajectory is then float16 too, which the documentation advises against.
    half = [tuple(t.half() for t in pair) for pair in BATCHES]
    result = _run(half, (OUTER[0].half(), OUTER[1]), convnet().half())
    assert result.finite
    assert result.batches[0].images.dtype == torch.float16
