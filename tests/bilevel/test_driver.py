"""The recursion as functions over a carry: what goes through it may be cut anywhere."""

import dataclasses

import pytest
import torch

from dd_plugin.bilevel import BilevelProblem, Device, Full, Host, Recompute, adam, sgd
from dd_plugin.bilevel.adjoints import DoubleBackward, ForwardOverReverse, Sweeps, WholeGraph
from dd_plugin.bilevel.driver import backward, differentiate, differentiate_at_once, forward, judge
from dd_plugin.bilevel.plan import make_plan, started
from dd_plugin.bn import convert_bn
from tests.bilevel.problems import convnet, hard_batch, relative_error, soft_batches

STEPS = 5
GIVEN = {"parameters": None, "statistics": None, "constants": None}


def planned(optimizer, batches, outer, **options):
    problem = BilevelProblem(
        convert_bn(convnet(width=2, dropout=0.2), "tracked", "batch"), optimizer=optimizer
    )
    return make_plan(
        problem,
        batches,
        outer,
        step_size=torch.linspace(0.01, 0.05, STEPS, dtype=torch.float64),
        steps=None,
        seed=3,
        model_seed=None,
        hyperparameters=None,
        window=Full(),
        **options,
    )


def of_window(plan, start, stop):
    return dataclasses.replace(plan, window=range(start, stop))


@pytest.mark.parametrize("cut", [1, 3])
@pytest.mark.parametrize("storage", [Device(2), Host(3), Recompute(2)])
@pytest.mark.parametrize("optimizer", [sgd(0.9, weight_decay=0.1), adam(eps=1e-3)])
@pytest.mark.parametrize("method", [ForwardOverReverse(), DoubleBackward()])
def test_the_way_back_in_two_parts_is_the_way_back(method, optimizer, storage, cut):
    plan = planned(optimizer, soft_batches(STEPS), hard_batch(), storage=storage)
    with started(plan, None, GIVEN) as (steps, state):
        whole = {}
        expected = differentiate(steps, plan, state, method, whole.__setitem__)

        parts = {}
        late = of_window(plan, cut, STEPS)
        run = forward(steps, late, state)
        outer_loss, carry = judge(steps, late, run.final)
        carry = backward(steps, late, run, carry, Sweeps(steps, method), parts.__setitem__)
        early = of_window(plan, 0, cut)
        run = forward(steps, early, state)
        carry = backward(steps, early, run, carry, Sweeps(steps, method), parts.__setitem__)
    assert torch.equal(outer_loss, expected.outer_loss)
    assert list(whole) == list(parts) == list(reversed(range(STEPS)))
    for one, other in zip((carry, parts), (expected.carry, whole), strict=True):
        assert relative_error(one, other) == 0
    assert float(carry.parameters["0.weight"].norm()) > 0


def test_every_method_fills_the_same_record():
    plan = planned(adam(eps=1e-3), soft_batches(STEPS), hard_batch())
    found = []
    with started(plan, None, GIVEN) as (steps, state):
        for method in (ForwardOverReverse(), DoubleBackward(), WholeGraph()):
            taken = {}
            if isinstance(method, WholeGraph):
                done = differentiate_at_once(steps, plan, state, taken.__setitem__)
            else:
                done = differentiate(steps, plan, state, method, taken.__setitem__)
            assert done.method == method.name
            final = done.run.final
            moved = (final.parameters, final.statistics, done.run.losses, done.outer_loss)
            found.append((moved, done.carry, dict(sorted(taken.items()))))
    for one in found[1:]:
        assert relative_error(one, found[0]) < 1e-9


def test_without_reads_a_loss_that_is_not_finite_goes_back_too():
    batches = [(x * float("nan"), y) for x, y in soft_batches(STEPS)]
    plan = planned(sgd(), batches, hard_batch())
    taken = {}
    with started(plan, None, GIVEN) as (steps, state):
        done = differentiate(steps, plan, state, ForwardOverReverse(), taken.__setitem__)
    assert len(taken) == STEPS
    assert all(t.isnan().all() for t in done.carry.parameters.values())
