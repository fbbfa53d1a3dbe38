"""`dd_plugin.distiller.storage_choice`: by free memory, and the same in a resumed run."""

import json

import pytest
import torch

from dd_plugin.bilevel import Device, Recompute
from dd_plugin.distiller import storage_choice
from dd_plugin.distiller.storage_choice import (
    choose_activations,
    choose_storage,
    forget_activations,
    keep_activations,
    kept_when_compiled,
    storage_of,
    trajectory_bytes,
)
from tests.distiller.choosing import use_quick_compiler
from tests.distiller.test_checkpoint import check_same
from tests.distiller.toy import toy_distiller

GIB = 1 << 30


@pytest.fixture
def memory(monkeypatch):
    """A function that sets the free memory of the machine."""
    return lambda free: monkeypatch.setattr(storage_choice, "free_memory", lambda _: free)


def chosen(distiller):
    choose_storage(distiller._run, distiller._train_state)
    return distiller.state.choices.get("storage")


def test_a_trajectory_is_as_large_as_the_engine_says(tmp_path):
    for options in ({}, {"window": "last", "window_length": 9}, {"inner_optimizer": "adam"}):
        distiller = toy_distiller(tmp_path, inner_steps=20, **options)
        (problem,) = distiller.architectures.problems
        leaves = [leaf for group in distiller.synthetic.leaves().values() for leaf in group]
        kept = distiller._outer_step.gradient(0, 0, leaves).trajectory_bytes
        # Beside what is kept, the states of a segment are rebuilt.
        assert kept < trajectory_bytes(problem, distiller.config) < 4 * kept


def test_the_place_is_the_first_that_half_of_the_memory_holds(tmp_path, memory):
    distiller = toy_distiller(tmp_path, inner_steps=20)
    (problem,) = distiller.architectures.problems
    needed = trajectory_bytes(problem, distiller.config)
    for free, place in ((2 * needed, "device"), (2 * needed - 1, "recompute"), (None, "device")):
        distiller.state.choices.clear()
        memory(free)
        assert chosen(distiller)["storage"] == place
    distiller.state.choices.clear()
    memory(1)
    chosen(distiller)
    assert isinstance(storage_of(distiller._run, distiller._train_state), Recompute)


def test_named_settings_are_not_chosen(tmp_path, memory):
    memory(1)
    distiller = toy_distiller(tmp_path, storage="device", activation_memory=0.5, compile="trace")
    assert chosen(distiller) is None
    assert storage_of(distiller._run, distiller._train_state) == Device(activations=GIB // 2)


def test_activations_are_kept_in_compiled_steps_alone(tmp_path, memory):
    memory(8 * GIB)
    distiller = toy_distiller(tmp_path, compile="trace")
    assert chosen(distiller) == {"storage": "device"}
    run, state = distiller._run, distiller._train_state
    choose_activations(run, state)
    assert state.position.choices["storage"] == {"storage": "device", "activation_memory": 2.0}
    assert storage_of(run, state) == Device()
    distiller.architectures.problems[0].compile = True
    assert storage_of(run, state) == Device(activations=2 * GIB)
    assert kept_when_compiled(run, state) == (2 * GIB, 3, 3)
    forget_activations(state)
    assert state.position.choices["storage"] == {"storage": "device"}


def test_traced_steps_keep_activations_from_a_step_on(tmp_path, memory):
    memory(8 * GIB)
    distiller = toy_distiller(tmp_path, compile="trace")
    chosen(distiller)
    run, state = distiller._run, distiller._train_state
    state.position.global_step = 3
    keep_activations(run, state)
    forget_activations(state)  # as a run does that is not compiled
    state.position.global_step = 9
    keep_activations(run, state)  # as a run does that was made longer
    for step, expected in ((2, 0), (3, 2 * GIB), (4, 2 * GIB)):
        state.position.global_step = step
        assert storage_of(run, state) == Device(activations=expected)


def test_no_memory_is_chosen_where_it_is_named(tmp_path, memory):
    memory(8 * GIB)
    distiller = toy_distiller(tmp_path, compile="trace", activation_memory=0)
    chosen(distiller)
    keep_activations(distiller._run, distiller._train_state)
    assert storage_of(distiller._run, distiller._train_state) == Device()


def test_processes_share_the_memory_of_their_machine(tmp_path, memory, monkeypatch):
    memory(8 * GIB)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert chosen(toy_distiller(tmp_path, compile="inductor"))["activation_memory"] == 0.5


def test_a_resumed_run_keeps_what_was_chosen(tmp_path, memory, monkeypatch):
    memory(8 * GIB)
    use_quick_compiler(monkeypatch)
    options = {"save_steps": 2, "compile": "inductor", "dtype": "float32"}
    toy_distiller(tmp_path / "a", **options).train()
    memory(1)
    again = toy_distiller(tmp_path / "b", **options)
    again.train(resume_from_checkpoint=tmp_path / "a" / "checkpoint-2")
    assert again.state.choices["storage"] == {"storage": "device", "activation_memory": 2.0}
    again.save_model()
    record = json.loads((tmp_path / "b" / "recipe.json").read_text())
    assert record["about"]["config"]["chosen"]["storage"]["activation_memory"] == 2.0


def test_a_checkpoint_of_before_goes_on_with_what_it_kept(tmp_path, memory):
    memory(8 * GIB)
    before = {"storage": "device", "activation_memory": 0.0, "compile": "no"}
    toy_distiller(tmp_path / "a", save_steps=2, **before).train()
    again = toy_distiller(tmp_path / "b", save_steps=2)
    again.train(resume_from_checkpoint=tmp_path / "a" / "checkpoint-2")
    assert again.state.choices["storage"]["activation_memory"] == 0.0


def test_the_place_changes_no_bit(tmp_path):
    options = {"compile": "trace", "dtype": "float32", "inner_steps": 10, "max_steps": 2}
    results = []
    for storage in ("device", "host", "recompute"):
        distiller = toy_distiller(tmp_path / storage, storage=storage, **options)
        distiller.train()
        results.append(distiller.synthetic.state_dict())
    for other in results[1:]:
        check_same(results[0], other)


def test_a_run_for_heads_chooses_nothing(tmp_path):
    from tests.distiller.toy import head_distiller

    distiller = head_distiller(tmp_path)
    assert chosen(distiller) is None
    assert storage_of(distiller._run, distiller._train_state) == Device()
    assert torch.isfinite(torch.tensor(distiller.training_step()))
