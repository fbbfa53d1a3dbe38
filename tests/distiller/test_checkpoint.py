"""Checkpoints: resumed runs are the undisturbed run, bit for bit, whatever ended them."""

import json
import signal
import time

import pytest
import torch

from dd_plugin.distiller import DistillerCallback, checkpoint
from dd_plugin.distiller.checkpoint import latest_checkpoint
from dd_plugin.distiller.saved_runs import checkpoints
from tests.distiller.toy import SHALLOW, toy_distiller
from tests.processes import start_prepared

POOL = {"init": "pool", "window": "last", "window_length": 2, "pool_size": 2, "pool_max_steps": 6}

RUN = """
import sys, time
from tests.distiller.test_checkpoint import LONG
from tests.distiller.toy import toy_distiller
from dd_plugin.distiller import DistillerCallback

class Slow(DistillerCallback):
    def on_step_end(self, config, state, control, **kwargs):
        print("step", state.global_step, flush=True)
        time.sleep(0.05)

state = toy_distiller(sys.argv[1], callbacks=[Slow()], **LONG).train()
print("interrupted", state.interrupted, flush=True)
"""
LONG = {"max_steps": 12, "save_steps": 1, "soft_labels": True}


class StopsAt(DistillerCallback):
    """Ends training at a step; the steps that it saw."""

    def __init__(self, step):
        self.step, self.seen = step, []

    def on_step_end(self, config, state, control, **kwargs):
        self.seen.append(state.global_step)
        control.should_training_stop |= state.global_step == self.step


def resumed(folder, **options):
    """The set of a run that goes on in this process."""
    distiller = toy_distiller(folder, **LONG, **options)
    assert distiller.train(resume_from_checkpoint="latest").interrupted is None
    return distiller.synthetic.state_dict()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    distiller = toy_distiller(tmp_path_factory.mktemp("undisturbed"), **LONG)
    distiller.train()
    return distiller.synthetic.state_dict()


def check_same(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("step", [2, 7])
def test_killed_at_any_moment_and_resumed(tmp_path, undisturbed, step):
    process = start_prepared(RUN, tmp_path / "out", folder=tmp_path / "program")
    process.wait_for(f"step {step}\n")
    time.sleep(0.013 * step)  # somewhere in the middle of what follows
    assert process.kill().returncode == -signal.SIGKILL
    check_same(resumed(tmp_path / "out"), undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_cleanly(tmp_path, undisturbed, number):
    out = tmp_path / "out"
    process = start_prepared(RUN, out, folder=tmp_path / "program")
    process.wait_for("step 4\n")
    process.send_signal(number)
    done = process.ended()
    assert done.returncode == 0
    assert done.stdout.strip().endswith(f"interrupted {number.name}")
    assert latest_checkpoint(out).name in ("checkpoint-5", "checkpoint-6")
    check_same(resumed(out), undisturbed)


def test_a_traced_run_is_resumed_bit_for_bit(tmp_path):
    options = {"max_steps": 4, "save_steps": 2, "compile": "trace", "model_args": SHALLOW}
    whole = toy_distiller(tmp_path / "a", **options)
    whole.train()
    again = toy_distiller(tmp_path / "b", **options)
    again.train(resume_from_checkpoint=tmp_path / "a" / "checkpoint-2")
    check_same(again.synthetic.state_dict(), whole.synthetic.state_dict())


def test_a_pool_and_the_optimizer_go_on_where_they_were(tmp_path):
    whole = toy_distiller(tmp_path / "a", max_steps=8, **POOL)
    whole.train()
    first = toy_distiller(tmp_path / "b", max_steps=8, save_steps=5, **POOL)
    first.train()
    (tmp_path / "b" / "checkpoint-8").rename(tmp_path / "gone")
    second = toy_distiller(tmp_path / "b", max_steps=8, save_steps=5, **POOL)
    second.train(resume_from_checkpoint="latest")
    for name, t in whole.synthetic.state_dict().items():
        assert torch.equal(t, second.synthetic.state_dict()[name]), name
    assert second.state.inner_steps == whole.state.inner_steps
    assert [line["step"] for line in second.state.log_history] == [2, 4, 6, 8]


def test_old_checkpoints_are_deleted_over_the_limit(tmp_path):
    toy_distiller(tmp_path, max_steps=5, save_steps=1, save_total_limit=2).train()
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-4", "checkpoint-5"]


def test_a_run_that_goes_back_keeps_what_it_writes_and_what_was_there(tmp_path):
    toy_distiller(tmp_path, max_steps=6, save_steps=2, save_total_limit=None).train()
    options = {"max_steps": 6, "save_steps": 1, "save_total_limit": 2}
    again = toy_distiller(tmp_path, callbacks=[StopsAt(3)], **options)
    with pytest.warns(UserWarning, match="later checkpoints .* left-checkpoint-4, left-check"):
        again.train(tmp_path / "checkpoint-2")
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-3"]
    assert latest_checkpoint(tmp_path).name == "checkpoint-3"
    assert (tmp_path / "left-checkpoint-6" / "state.json").exists()


def test_a_checkpoint_of_elsewhere_is_no_leave_to_replace_a_run(tmp_path):
    for name in ("a", "b"):
        toy_distiller(tmp_path / name, max_steps=4, save_steps=2).train()
    elsewhere = tmp_path / "a" / "checkpoint-2"
    there = toy_distiller(tmp_path / "b", max_steps=4, save_steps=2)
    with pytest.raises(ValueError, match="holds another run"):
        there.train(elsewhere)
    assert [p.name for p in checkpoints(tmp_path / "b")] == ["checkpoint-2", "checkpoint-4"]
    asked = toy_distiller(tmp_path / "b", max_steps=4, save_steps=3, overwrite_output_dir=True)
    asked.train(elsewhere)
    assert [p.name for p in checkpoints(tmp_path / "b")] == ["checkpoint-3", "checkpoint-4"]


def test_a_second_call_goes_on_where_the_first_ended(tmp_path):
    toy_distiller(tmp_path, max_steps=4, save_steps=2).train()
    options = {"resume_from_checkpoint": str(tmp_path / "checkpoint-2"), "save_steps": 0}
    distiller = toy_distiller(tmp_path, max_steps=4, callbacks=[StopsAt(3)], **options)
    with pytest.warns(UserWarning, match="later checkpoints"):
        distiller.train()
    assert distiller.state.global_step == 3
    distiller.train()
    # Not from the checkpoint of the settings again.
    assert distiller.state.global_step == 4
    assert distiller.callbacks[-1].seen == [3, 4]


def test_another_number_of_networks_than_the_default_stood_for(tmp_path):
    toy_distiller(tmp_path, save_steps=2, networks_per_step=2).train()
    with pytest.raises(ValueError, match=r"2 networks per outer step.*give `networks_per_step=2`"):
        toy_distiller(tmp_path).train("latest")


def test_results_are_of_the_images_that_are_there(tmp_path):
    distiller = toy_distiller(tmp_path, max_steps=1, lr_scheduler_type="constant")
    distiller.train()
    assert distiller.compare()
    distiller.config.max_steps = 2
    distiller.train()
    assert not distiller.results
    distiller.save_model()
    assert json.loads((tmp_path / "recipe.json").read_text())["results"] == {}


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(tmp_path, monkeypatch):
    whole = toy_distiller(tmp_path / "a")
    whole.train()
    distiller = toy_distiller(tmp_path / "b", save_steps=4)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.warns(UserWarning, match=r"checkpoint 4 could not be written .*No space left"):
        distiller.train()
    assert not list((tmp_path / "b").glob("*checkpoint*"))
    assert torch.equal(distiller.synthetic.images(), whole.synthetic.images())


def test_an_unwritable_folder_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"`output_dir` .* cannot be written"):
        toy_distiller(tmp_path / "file" / "inside")


def test_checkpoints_that_do_not_fit(tmp_path):
    toy_distiller(tmp_path, save_steps=2).train()
    other = toy_distiller(tmp_path, save_steps=2, inner_steps=5)
    with pytest.raises(ValueError, match=r"other settings \(inner_steps: 3 then, 5 now\)"):
        other.train(resume_from_checkpoint=True)
    same = toy_distiller(tmp_path, save_steps=2)
    with pytest.raises(ValueError, match="is not a checkpoint that can be read"):
        same.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    with pytest.raises(ValueError, match=r"has 4 outer steps already, more than `max_steps`, 3; "):
        toy_distiller(tmp_path, save_steps=2, max_steps=3).train(resume_from_checkpoint=True)
    for damage in ("{}", "[]", "null"):
        (tmp_path / "checkpoint-2" / "state.json").write_text(damage)
        with pytest.raises(ValueError, match="is not a checkpoint that can be read"):
            same.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    whole = tmp_path / "checkpoint-4" / "state.safetensors"
    whole.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is not a checkpoint that can be read"):
        same.train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="holds no checkpoint"):
        toy_distiller(tmp_path / "none").train(resume_from_checkpoint=True)


def test_a_run_with_a_constant_schedule_may_be_made_longer(tmp_path):
    options = {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 2}
    whole = toy_distiller(tmp_path / "a", max_steps=6, **options)
    whole.train()
    # From a checkpoint, by another Distiller; warnings are errors here.
    toy_distiller(tmp_path / "b", max_steps=3, save_steps=3, **options).train()
    resumed = toy_distiller(tmp_path / "b", max_steps=6, save_steps=3, **options)
    resumed.train(resume_from_checkpoint="latest")
    # And by the same one, which knows the folder for its own.
    same = toy_distiller(tmp_path / "c", max_steps=3, save_steps=3, **options)
    same.train()
    same.config.max_steps = 6
    assert (same.train().global_step, same.state.max_steps) == (6, 6)
    for other in (resumed, same):
        for name, t in whole.synthetic.state_dict().items():
            assert torch.equal(t, other.synthetic.state_dict()[name]), name
    assert [p.name for p in checkpoints(tmp_path / "c")] == ["checkpoint-3", "checkpoint-6"]


def test_a_schedule_that_ends_with_the_run_cannot_be_made_longer_unnoticed(tmp_path):
    distiller = toy_distiller(tmp_path, max_steps=2, save_steps=2)
    distiller.train()
    distiller.config.max_steps = 4
    with pytest.raises(ValueError, match=r"`max_steps` is 4 now and was 2 when the cosine sched"):
        distiller.train()
    longer = toy_distiller(tmp_path, max_steps=4, save_steps=2)
    with pytest.warns(UserWarning, match="those of a cosine schedule over 2 steps, so the images"):
        longer.train(resume_from_checkpoint="latest")
    assert longer.state.global_step == 4


def test_training_goes_on_after_a_callback_has_ended_it(tmp_path):
    class Ends(DistillerCallback):
        def on_step_end(self, config, state, control, **kwargs):
            control.should_training_stop |= state.global_step == 1

    whole = toy_distiller(tmp_path / "a")
    whole.train()
    distiller = toy_distiller(tmp_path / "b", callbacks=[Ends()])
    assert distiller.train().global_step == 1
    assert distiller.train().global_step == 4
    assert torch.equal(distiller.synthetic.images(), whole.synthetic.images())


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
