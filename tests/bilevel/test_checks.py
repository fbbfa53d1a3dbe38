"""What a run starts from and is fed with has to fit its model."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dd_plugin.bilevel import BilevelProblem, adam, hypergradients, initial_state
from tests.bilevel.problems import convnet, relative_error, worst_error
from tests.bilevel.runs import BATCHES, IMAGES, INDICES, LABELS, OUTER, run

ERRORS = {
    "no outer batch": ({"outer": []}, ValueError, "`outer_batch` must hold at least one"),
    "an empty outer batch": ({"outer": (OUTER[0][:0], OUTER[1][:0])}, ValueError, "at least one"),
    "outer labels": ({"outer": (OUTER[0], OUTER[1] + 3)}, ValueError, "labels of the outer batch"),
    "outer float32": ({"outer": (OUTER[0].float(), OUTER[1])}, TypeError, "the outer batch must"),
    "outer elsewhere": ({"outer": (OUTER[0].to("meta"), OUTER[1])}, ValueError, "got meta; move"),
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
    "no state": ({"initial": {}}, TypeError, "`initial` must be a RunState"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_outer_batches_and_starts_that_do_not_fit(name):
    options, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message):
        run(**options)


def test_states_of_another_run():
    problem = BilevelProblem(convnet(), optimizer=adam())
    with pytest.raises(ValueError, match=r"'0\.weight' differs; it seems to be of another model"):
        run(problem=problem, initial=initial_state(BilevelProblem(convnet(width=4))))
    with pytest.raises(ValueError, match=r"what adam keeps, .*, got \[\]"):
        run(problem=problem, initial=run(problem=convnet()).final)
    several = [initial_state(problem), initial_state(BilevelProblem(convnet(width=4)))]
    for mode in ("sequential", "batched"):
        with pytest.raises(ValueError, match="seems to be of another model"):
            hypergradients(problem, BATCHES, OUTER, several, mode=mode, step_size=0.1)


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
