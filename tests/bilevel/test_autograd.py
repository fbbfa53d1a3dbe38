"""Leaves of a graph, and what a loss must reach of them."""

import pytest
import torch
from torch import nn

from dd_plugin.bilevel import BilevelProblem, hypergradient, sgd
from dd_plugin.bilevel.autograd import as_leaves, gradients_of, swept_roles
from dd_plugin.bilevel.step_values import StepInputs
from tests.bilevel.problems import convnet, hard_batch, soft_batches


class _Spare(nn.Module):
    """A layer that the output does not depend on."""

    def __init__(self):
        super().__init__()
        self.used = convnet()
        self.spare = nn.Linear(2, 2).double()

    def forward(self, x):
        return self.used(x)


@pytest.mark.parametrize("method", ["mixed", "reverse", "autograd"])
def test_a_parameter_that_the_loss_does_not_reach_has_gradient_zero(method):
    # Training goes on; what the optimizer does by itself, here decay by 1 - 0.1 * 0.5, is done.
    model = _Spare()
    problem = BilevelProblem(model, optimizer=sgd(weight_decay=0.5))
    batches, outer = soft_batches(2), hard_batch()
    result = hypergradient(problem, batches, outer, step_size=0.1, method=method)
    assert result.finite
    assert not result.parameters["spare.weight"].any()
    expected = model.spare.weight.detach() * 0.95**2
    torch.testing.assert_close(result.final.parameters["spare.weight"], expected)


@pytest.mark.parametrize("method", ["mixed", "reverse", "autograd"])
@pytest.mark.parametrize("which", ["inner", "outer"])
def test_a_loss_that_reaches_no_parameter_is_an_error(method, which):
    batches, outer = soft_batches(2), hard_batch()

    def accuracy(logits, labels):
        return logits.argmax(1).double().mean()

    problem = BilevelProblem(convnet(), **{f"{which}_loss": accuracy})
    with pytest.raises(ValueError, match=f"the {which} loss does not depend on any trainable"):
        hypergradient(problem, batches, outer, step_size=0.1, method=method)


def inputs(labels):
    part = {"w": torch.ones(2)}
    return StepInputs(
        parameters=part,
        statistics={},
        counters={},
        constants={},
        fixed={},
        images=torch.ones(3),
        labels=labels,
        noise=[],
    )


def test_labels_have_an_adjoint_if_they_are_probabilities():
    assert "labels" in swept_roles(inputs(torch.ones(3)))
    assert "labels" not in swept_roles(inputs(torch.ones(3, dtype=torch.int64)))


def test_leaves_are_of_a_new_graph():
    step = inputs(torch.ones(3))
    leaves = as_leaves(step, ["parameters", "images"])
    assert sorted(leaves) == ["images", "parameters"]
    assert leaves["parameters"]["w"].is_leaf
    assert leaves["images"].requires_grad
    assert not step.images.requires_grad


def test_a_leaf_that_a_loss_does_not_reach_has_gradient_zero():
    a, b = (torch.ones(2, requires_grad=True) for _ in range(2))
    found = gradients_of((3 * a).sum(), {"a": a, "b": b}, "inner")
    assert torch.equal(found["a"], torch.full((2,), 3.0))
    assert torch.equal(found["b"], torch.zeros(2))
