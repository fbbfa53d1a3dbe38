import pytest
import torch

from dd_plugin.bilevel import BilevelProblem, Device, Host, Recompute, adam, hypergradient
from tests.bilevel.problems import convnet, hard_batch, soft_batches


def _bytes(storage, steps):
    problem = BilevelProblem(convnet(), optimizer=adam())
    batches = soft_batches(1) * steps
    result = hypergradient(problem, batches, hard_batch(), step_size=0.01, storage=storage)
    return result.trajectory_bytes


def test_a_step_costs_one_gradient_and_a_share_of_a_state():
    # 8 steps more are 8 gradients, of a third of Adam's state (weights and two moments) each, and
    # one state: 8/3 + 1 states, plus statistics, counters and allocator rounding.
    problem = BilevelProblem(convnet())
    weights = sum(p.numel() * 8 for p in problem.model.parameters.values())
    per_step = (_bytes(Device(8), 24) - _bytes(Device(8), 16)) / 8
    assert weights * (1 + 3 / 8) <= per_step < weights * (1 + 3 / 8) * 1.2


def test_recomputing_keeps_the_square_root():
    # 16 steps in segments of 4: 4 states of 3 weights; keeping all: 16 gradients and 2 states.
    assert _bytes(Recompute(), 16) < 0.6 * _bytes(Device(8), 16)
    assert Recompute().segment(16) == 4
    assert Recompute().segment(17) == 5
    assert Recompute().segment(1) == 1


@pytest.mark.parametrize("storage", [Device(0), Host(-1), Recompute(0)])
def test_segments_hold_a_step(storage):
    with pytest.raises(ValueError, match="`every` must be at least 1"):
        storage.segment(4)


def test_states_are_rebuilt_to_the_bit():
    problem = BilevelProblem(convnet(), optimizer=adam())
    batches, outer = soft_batches(5), hard_batch()
    one, *others = (
        hypergradient(problem, batches, outer, step_size=0.01, storage=storage)
        for storage in (Device(1), Device(3), Host(2), Recompute(2))
    )
    for other in others:
        for name, bar in one.parameters.items():
            assert torch.equal(bar, other.parameters[name])
