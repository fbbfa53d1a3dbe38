"""What a run starts from and is judged on has to be of its model."""

import pytest

from dd_plugin.bilevel import BilevelProblem, adam, hypergradients, initial_state
from tests.bilevel.problems import convnet
from tests.bilevel.runs import BATCHES, IMAGES, OUTER, run

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
