"""Runs whose steps do not count: none of them ends as a success, and none is logged as loss 0."""

import json

import pytest
import torch

from dd_plugin.cli import main
from dd_plugin.distiller import DistillerCallback, DistillerConfig, NonFiniteError
from tests.distiller.toy import toy_config, toy_distiller


class Skips(DistillerCallback):
    """Has the steps after some others fail, by real images that are no numbers."""

    def __init__(self, steps):
        self.steps = set(steps)

    def on_train_begin(self, config, state, control, *, distiller, **kwargs):
        real_batch = distiller.real_batch

        def broken(step, index):
            images, labels = real_batch(step, index)
            return (images * float("nan") if step in self.steps else images), labels

        distiller.real_batch = broken


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("init", ["random", "fixed", "pool"])
def test_a_run_in_which_no_step_counts_fails(tmp_path, steps, init):
    pool = {"window": "last", "window_length": 2, "pool_size": 2} if init == "pool" else {}
    skips = Skips(range(steps))
    distiller = toy_distiller(tmp_path, max_steps=steps, init=init, callbacks=[skips], **pool)
    before = distiller.synthetic.images().detach().clone()
    with pytest.raises(
        NonFiniteError, match=rf"none of the {steps} outer steps .* Lower `inner_lr` \(now 0\.05\)"
    ):
        distiller.train()
    assert torch.equal(before, distiller.synthetic.images())


def test_one_step_that_counts_is_a_run(tmp_path):
    distiller = toy_distiller(tmp_path, max_steps=4, callbacks=[Skips({1})])
    assert distiller.train().skipped_steps == 1
    with pytest.warns(UserWarning, match="3 of 4 outer steps were not finite and left out"):
        toy_distiller(tmp_path / "b", max_steps=4, callbacks=[Skips({0, 1, 3})]).train()


def test_steps_before_a_checkpoint_count(tmp_path):
    toy_distiller(tmp_path, max_steps=2, save_steps=2, lr_scheduler_type="constant").train()
    longer = {"max_steps": 4, "lr_scheduler_type": "constant"}
    resumed = toy_distiller(tmp_path, callbacks=[Skips({2, 3})], **longer)
    assert resumed.train("latest").skipped_steps == 2


def test_a_line_of_steps_that_did_not_count_has_no_loss(tmp_path):
    distiller = toy_distiller(tmp_path, max_steps=4, logging_steps=2, callbacks=[Skips({0, 1})])
    distiller.train()
    first, second = distiller.state.log_history
    assert "outer_loss" not in first
    assert first["skipped_steps"] == 2
    assert second["outer_loss"] > 0


def test_the_command_writes_no_set(tmp_path, capsys):
    pytest.importorskip("sklearn")
    words = ["distill", "--output_dir", str(tmp_path / "out"), "--max_steps", "2"]
    words += ["--inner_lr", "1e20", "--inner_steps", "4", "--no_baselines", "--disable_tqdm"]
    assert main(words) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "none of the 2 outer steps was finite" in last
    assert "Lower --inner_lr (now 1e+20)" in last
    assert not (tmp_path / "out" / "recipe.json").exists()


@pytest.mark.parametrize("value", [1e300, 1e39, 1e-46])
@pytest.mark.parametrize("name", ["inner_lr", "learning_rate", "step_size_lr", "statistics_lr"])
def test_rates_that_the_precision_does_not_have(tmp_path, name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must be a number that float32 can hold"):
        DistillerConfig(**{name: value})
    assert getattr(toy_config(tmp_path, **{name: value}), name) == value  # of float64


class StopsAt(DistillerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, config, state, control, **kwargs):
        control.should_training_stop |= state.global_step == self.step


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_the_log_of_a_resumed_run_is_that_of_an_undisturbed_one(tmp_path, step):
    options = {"max_steps": 6, "logging_steps": 3, "save_steps": 1}
    whole = toy_distiller(tmp_path / "a", **options)
    whole.train()
    toy_distiller(tmp_path / "b", callbacks=[StopsAt(step)], **options).train()
    resumed = toy_distiller(tmp_path / "b", **options)
    resumed.train("latest")
    assert resumed.state.global_step == 6

    def plain(distiller):
        timed = ("second", "memory")
        return [
            {k: v for k, v in line.items() if not any(word in k for word in timed)}
            for line in distiller.state.log_history
        ]

    assert len(plain(whole)) == 2
    assert plain(resumed) == plain(whole)


def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path):
    toy_distiller(tmp_path, max_steps=2, save_steps=1).train()
    path = tmp_path / "checkpoint-1" / "state.json"
    numbers = json.loads(path.read_text())
    del numbers["state"]["losses"]
    for name in ("rescue_dir", "wait_for_room"):
        del numbers["config"][name]
    path.write_text(json.dumps(numbers))
    with pytest.warns(UserWarning, match="later checkpoints"):
        state = toy_distiller(tmp_path, max_steps=2).train(tmp_path / "checkpoint-1")
    assert state.global_step == 2


@pytest.mark.parametrize("networks", [0, -1])
def test_no_networks_are_not_the_default(tmp_path, networks):
    distiller = toy_distiller(tmp_path, max_steps=1)
    with pytest.raises(ValueError, match=rf"`networks` must be at least 1, got {networks}"):
        distiller.evaluate(networks)
    assert distiller.evaluate(1)["networks"] == 1


def test_empty_names_are_not_the_default(tmp_path):
    distiller = toy_distiller(tmp_path, max_steps=1, push_to_hub=False, hub_dataset_id=None)
    distiller.config.hub_dataset_id = "me/it"
    with pytest.raises(ValueError, match="`repo_id` must be given"):
        distiller.push_to_hub("")
    with pytest.raises(ValueError, match="`output_dir` must be a folder, got ''"):
        distiller.save_model("")
