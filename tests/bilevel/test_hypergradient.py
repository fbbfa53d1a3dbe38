"""Whole runs: nothing of the caller's is changed, and every odd size, mode and type is taken."""

import random

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from torch.utils import _pytree as pytree

from dd_plugin.bilevel import BilevelProblem, adam, hypergradient, unroll
from dd_plugin.bn import convert_bn
from tests.bilevel.problems import (
    assert_unchanged,
    convnet,
    frozen_copy,
    hard_batch,
    soft_batches,
    worst_error,
)
from tests.bilevel.runs import BATCHES, IMAGES, INDICES, LABELS, OUTER, run


@pytest.mark.parametrize("method", ["mixed", "reverse", "autograd"])
def test_no_object_is_changed(method):
    model = convert_bn(convnet(dropout=0.3), "tracked").eval()
    batches, outer = soft_batches(2), hard_batch()
    before = frozen_copy(model)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = hypergradient(model, batches, outer, step_size=0.1, method=method)
    second = hypergradient(model, batches, outer, step_size=0.1, method=method)
    assert_unchanged(model, before)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert np.array_equal(states[2], np.random.get_state()[1])  # noqa: NPY002
    assert worst_error(first, second)[0] == 0.0
    assert all(not t.requires_grad for t in first.parameters.values())


def test_a_loss_that_is_not_finite_is_a_result():
    problem = BilevelProblem(convnet())
    batches = soft_batches(4)
    batches[2][0][0, 0, 0, 0] = float("inf")
    for method in ("mixed", "autograd"):
        result = hypergradient(problem, batches, hard_batch(), step_size=0.1, method=method)
        assert not result.finite
        assert result.first_nonfinite == 2
        assert all(t.isnan().all() for t in result.parameters.values())
        assert result.batches[0].images.isnan().all()


@pytest.mark.parametrize("method", ["mixed", "autograd"])
def test_a_parameter_without_elements_has_a_gradient_without_elements(method):
    class WithEmpty(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Flatten(), nn.Linear(192, 3))
            self.empty = nn.Parameter(torch.zeros(0))

    model = WithEmpty().double()
    result = hypergradient(model, soft_batches(2), hard_batch(), step_size=0.1, method=method)
    assert result.finite
    assert result.parameters["empty"].shape == (0,)


def test_unroll_takes_the_steps_of_a_hypergradient_to_the_bit():
    model = convert_bn(convnet(dropout=0.3), "tracked")
    problem = BilevelProblem(model, optimizer=adam())
    batches = soft_batches(3)
    options = {"step_size": torch.full((3,), 0.1, dtype=torch.float64), "seed": 4}
    whole = hypergradient(problem, batches, hard_batch(), **options)
    alone = unroll(problem, batches, **options)
    assert torch.equal(alone.inner_losses, whole.inner_losses)
    for one, other in zip(
        pytree.tree_leaves(alone.final), pytree.tree_leaves(whole.final), strict=True
    ):
        assert torch.equal(one, other)


def test_a_model_that_fails_on_the_outer_batch_says_on_what():
    with pytest.raises(RuntimeError) as caught:
        run(outer=(OUTER[0][:, :2], OUTER[1]))
    assert (
        "judging the trained network on a tensor of shape (5, 2, 8, 8)" in caught.value.__notes__[0]
    )


def test_inference_mode_is_named():
    with torch.inference_mode(), pytest.raises(RuntimeError, match="call it outside"):
        run()


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
        oracle = run(batches, outer, model, method="autograd")
        for method in ("mixed", "reverse"):
            result = run(batches, outer, model, method=method)
            assert result.finite
            assert worst_error(result, oracle)[0] < 1e-9


def test_half_precision_weights_run():
    # The trajectory is then float16 too, which the documentation advises against.
    half = [tuple(t.half() for t in pair) for pair in BATCHES]
    result = run(half, (OUTER[0].half(), OUTER[1]), convnet().half())
    assert result.finite
    assert result.batches[0].images.dtype == torch.float16
