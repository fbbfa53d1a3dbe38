"""`dd_plugin.distiller.pool`: networks whose training goes on, also from a checkpoint."""

import pytest
import torch

from dd_plugin.bilevel import adam, hypergradient, sgd
from tests.distiller.networks import (
    SHAPE,
    equal,
    flat,
    make,
    moved,
    networks,
    pool,
)


def test_pool_keeps_what_is_given_back_until_it_is_old():
    runs = pool(pool_size=1)
    first = runs.take(0, 0)
    assert runs.age(0) == 0
    assert runs.give_back(0, moved(first), 6)
    second = runs.take(1, 0)
    assert torch.equal(flat(second), flat(first) + 1)
    assert runs.age(0) == 6
    runs.give_back(0, moved(second), 10)
    third = runs.take(2, 0)
    assert runs.age(0) == 0
    assert not equal(third, moved(second))
    assert not equal(third, first)


def test_pool_uses_all_its_members():
    runs = pool(pool_size=3)
    seen = set()
    for step in range(30):
        state = runs.take(step, 0)
        seen.add(tuple(flat(state).tolist()))
        runs.give_back(0, state, 1)
    assert len(seen) == 3


def test_indices_have_their_own_members_so_processes_agree_with_one():
    together, first, second = pool(), pool(), pool()
    for step in range(6):
        for index, alone in enumerate((first, second)):
            state = together.take(step, index)
            assert equal(state, alone.take(step, index))
            together.give_back(index, moved(state), 1 + step)
            alone.give_back(index, moved(state), 1 + step)


def test_state_that_is_not_finite_is_not_kept():
    runs = pool(pool_size=1)
    first = runs.take(0, 0)
    assert not runs.give_back(0, moved(first, float("nan")), 3)
    state = runs.take(1, 0)
    assert runs.age(0) == 0
    assert torch.isfinite(flat(state)).all()


def test_giving_back_what_was_not_taken():
    runs = pool()
    state = runs.take(0, 0)
    with pytest.raises(ValueError, match="no network was taken for index 1"):
        runs.give_back(1, state, 1)


def test_pool_of_one_module_starts_from_its_weights():
    model = make()
    runs = networks(model, mode="pool", pool_size=1)
    assert runs.statistics == "tracked"
    assert torch.equal(runs.take(0, 0).parameters["0.weight"], model[0].weight)


@pytest.mark.parametrize("optimizer", [sgd(), sgd(0.9), adam()])
def test_resumed_pool_goes_on_as_if_nothing_had_happened(optimizer):
    def go(runs, steps):
        for step in steps:
            for index in range(2):
                state = runs.take(step, index)
                images = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(step))
                batch = (images, torch.arange(3))
                result = hypergradient(
                    runs.problem(), [batch], batch, step_size=0.1, initial=state, method="autograd"
                )
                runs.give_back(index, result.final, runs.age(index) + 4)

    through, stopped = pool(optimizer=optimizer), pool(optimizer=optimizer)
    go(through, range(6))
    go(stopped, range(3))
    saved = stopped.state_dict()
    assert {type(value) for value in saved.values()} <= {torch.Tensor, int}
    resumed = pool(optimizer=optimizer)
    resumed.load_state_dict(saved)
    go(resumed, range(3, 6))
    expected, found = through.state_dict(), resumed.state_dict()
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        if isinstance(value, int):
            assert value == found[name]
        else:
            assert torch.equal(value, found[name]), name


def test_state_of_another_run_is_refused():
    runs = pool(optimizer=adam())
    runs.take(0, 0)
    saved = runs.state_dict()
    with pytest.raises(ValueError, match=r"must have .*0\.weight.* of another model or inner opt"):
        pool(optimizer=adam()).load_state_dict(
            {name: value for name, value in saved.items() if "0.weight" not in name}
        )
    with pytest.raises(ValueError, match=r"these do not, such as .* of another model or inner"):
        pool(optimizer=sgd()).load_state_dict(saved)
    with pytest.raises(ValueError, match="those of mode=\"pool\", these have mode='random'"):
        networks(optimizer=adam()).load_state_dict(saved)
    with pytest.raises(ValueError, match=r"no whole number pool\.0"):
        pool(optimizer=adam()).load_state_dict(
            {name: value for name, value in saved.items() if not name.endswith("age")}
        )
