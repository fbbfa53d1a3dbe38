"""A problem: its losses, what they must give, and its precision."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from dd_plugin.bilevel import BilevelProblem, hypergradient, sgd
from tests.bilevel.problems import convnet, hard_batch, soft_batches, worst_error
from tests.bilevel.runs import IMAGES, run

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
        run(problem=BilevelProblem(convnet(), **options))


@pytest.mark.parametrize("compile", [False, "trace"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("soft", [False, True])
def test_mean_squared_error_of_labels(compile, reduction, soft):
    # The inner loss of KIP and FRePo; hard labels have no tangent, soft ones do.
    def loss(logits, labels):
        target = labels if soft else functional.one_hot(labels, 3).double()
        return functional.mse_loss(logits, target, reduction=reduction).mean()

    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    shape = (3, 2, 2)
    batches = soft_batches(2, shape=shape) if soft else [hard_batch(shape=shape)] * 2
    outer = hard_batch(shape=shape)
    problem = BilevelProblem(model, inner_loss=loss, compile=compile)
    result = hypergradient(problem, batches, outer, step_size=0.1)
    oracle = hypergradient(
        BilevelProblem(model, inner_loss=loss), batches, outer, step_size=0.1, method="autograd"
    )
    assert result.method == "mixed"
    assert problem.compiling == compile
    assert worst_error(result, oracle)[0] < 1e-9


def test_autocast_keeps_a_float32_trajectory():
    model = convnet().float()
    problem = BilevelProblem(model, autocast=torch.bfloat16)
    batches = [(x.float(), y.float()) for x, y in soft_batches(2)]
    images, labels = hard_batch()
    result = hypergradient(problem, batches, (images.float(), labels), step_size=0.1)
    plain = hypergradient(model, batches, (images.float(), labels), step_size=0.1)
    assert result.finite
    assert all(t.dtype == torch.float32 for t in result.final.parameters.values())
    # bfloat16 has 8 bits: the two agree in direction, not in value.
    a, b = result.batches[0].images.flatten(), plain.batches[0].images.flatten()
    assert not torch.equal(a, b)
    assert float(torch.cosine_similarity(a, b, dim=0)) > 0.8
