"""The folder of a run while it lasts: what it holds, and what it never loses."""

import errno
import json
import signal
import warnings

import pytest
import torch

from dd_plugin import DistilledDataset
from dd_plugin.distiller import DistillerCallback, course, report
from dd_plugin.distiller.run_folder import SO_FAR
from dd_plugin.hub.reading import read_record
from tests.distiller.toy import toy_distiller
from tests.processes import run_prepared

FILES = {"README.md", "recipe.json", "tensors.safetensors", "preview.png", "log.jsonl"}
FILES |= {"report.html", "course.webp"}


class Look(DistillerCallback):
    """Calls a function after the last step before another, and notes what it returns."""

    def __init__(self, function, step):
        self.function, self.step, self.seen = function, step, None

    def on_step_end(self, config, state, control, **kwargs):
        if state.global_step == self.step:
            self.seen = self.function(kwargs["distiller"])


def names(folder):
    return {path.name for path in folder.iterdir()}


def steps_of_frames(folder):
    return [step for _, step in course._frames(folder)]


def test_a_run_that_is_killed_leaves_a_set_and_a_report(tmp_path):
    script = """
import os, signal, sys
from dd_plugin.distiller import DistillerCallback
from tests.distiller.toy import toy_distiller

class Kill(DistillerCallback):
    def on_step_end(self, config, state, control, **kwargs):
        if state.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)

toy_distiller(sys.argv[1], eval_steps=1, callbacks=[Kill()]).train()
"""
    out = tmp_path / "out"
    done = run_prepared(script, out, folder=tmp_path / "program")
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert names(out) >= FILES
    assert len(DistilledDataset.from_pretrained(out)) == 3
    about = read_record(out).about
    assert (about.outer_steps, about.unfinished) == (2, True)
    assert "2 so far; the run was not finished" in (out / "README.md").read_text()
    page = (out / "report.html").read_text("utf-8")
    assert "2 of 4 outer steps done." in page
    assert "The run was not finished" in page
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert max(steps) == 2


def test_the_set_in_the_folder_is_the_one_that_was_evaluated(tmp_path):
    def stored_and_now(distiller):
        stored = DistilledDataset.from_pretrained(tmp_path)
        return stored.images, kept[2]

    class Keep(DistillerCallback):
        def on_evaluate(self, config, state, control, **kwargs):
            kept[state.global_step] = kwargs["distiller"].synthetic.images().detach().clone()

    kept = {}
    look = Look(stored_and_now, step=3)
    distiller = toy_distiller(tmp_path, eval_steps=2, callbacks=[Keep(), look])
    distiller.train()
    stored, evaluated = look.seen
    assert torch.equal(stored, evaluated)
    # What is written while the run lasts changes nothing of it.
    plain = toy_distiller(tmp_path / "plain")
    plain.train()
    assert torch.equal(distiller.synthetic.images(), plain.synthetic.images())
    distiller.save_model()
    record = json.loads((tmp_path / "recipe.json").read_text())
    assert "unfinished" not in record["about"]
    assert "The run was not finished" not in (tmp_path / "report.html").read_text()
    assert torch.equal(DistilledDataset.from_pretrained(tmp_path).images, plain.synthetic.images())


def test_the_best_images_so_far_are_in_the_folder(tmp_path):
    accuracies, seen, stored = iter([0.3, 0.9, 0.5, 0.4]), [], {}

    def evaluate(networks=None):
        seen.append(distiller.synthetic.images().detach().clone())
        return {"accuracy_mean": next(accuracies), "accuracy_std": 0.0, "networks": 1.0}

    class Store(DistillerCallback):
        def on_step_end(self, config, state, control, **kwargs):
            if state.global_step in (3, 5, 7):
                stored[state.global_step] = DistilledDataset.from_pretrained(tmp_path).images

    options = {"load_best_model_at_end": True, "eval_steps": 2, "max_steps": 8}
    distiller = toy_distiller(tmp_path, callbacks=[Store()], **options)
    distiller.evaluate = evaluate
    distiller.train()
    assert torch.equal(stored[3], seen[0])
    assert torch.equal(stored[5], seen[1])
    assert torch.equal(stored[7], seen[1])
    assert torch.equal(distiller.synthetic.images(), seen[1])
    # The pictures over time are those of the run, not of its best evaluation.
    assert steps_of_frames(tmp_path) == [0, 2, 4, 6, 8]


def test_a_finished_set_stays_until_the_run_ends(tmp_path):
    first = toy_distiller(tmp_path, eval_steps=2)
    first.train()
    first.compare()
    first.save_model()
    before = {name: (tmp_path / name).read_bytes() for name in FILES}

    def looked(distiller):
        now = {name: (tmp_path / name).read_bytes() for name in FILES}
        return now, DistilledDataset.from_pretrained(tmp_path / SO_FAR).images

    look = Look(looked, step=3)
    options = {"eval_steps": 2, "seed": 5, "overwrite_output_dir": True}
    second = toy_distiller(tmp_path, callbacks=[look], **options)
    second.train()
    now, so_far = look.seen
    assert now == before
    assert len(so_far) == 3
    second.save_model()
    assert not (tmp_path / SO_FAR).exists()
    images = DistilledDataset.from_pretrained(tmp_path).images
    assert torch.equal(images, second.synthetic.images())


def test_a_resumed_run_replaces_its_own_unfinished_set(tmp_path):
    class Stop(DistillerCallback):
        def on_step_end(self, config, state, control, **kwargs):
            if state.global_step == 3:
                state.interrupted = "SIGINT"

    options = {"eval_steps": 1, "save_steps": 2, "max_steps": 6}
    first = toy_distiller(tmp_path, callbacks=[Stop()], **options)
    first.train()
    assert read_record(tmp_path).about.outer_steps == 3  # an interruption fills the folder, too
    look = Look(lambda distiller: (names(tmp_path), read_record(tmp_path).about), step=5)
    second = toy_distiller(tmp_path, callbacks=[look], **options)
    with pytest.warns(UserWarning, match="the run goes back to step 2"):
        second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    files, about = look.seen
    assert SO_FAR not in files
    assert (about.outer_steps, about.unfinished) == (4, True)
    second.save_model()
    assert steps_of_frames(tmp_path) == [0, 1, 2, 3, 4, 5, 6]


def test_frames_of_another_run_are_forgotten(tmp_path):
    toy_distiller(tmp_path, eval_steps=1).train()
    assert steps_of_frames(tmp_path) == [0, 1, 2, 3]
    options = {"eval_steps": 2, "overwrite_output_dir": True, "seed": 5}
    other = toy_distiller(tmp_path, **options)
    other.train()
    assert steps_of_frames(tmp_path) == [0, 2]
    quiet = toy_distiller(tmp_path, overwrite_output_dir=True, seed=6)
    quiet.train()
    quiet.save_model()
    assert steps_of_frames(tmp_path) == []
    assert not (tmp_path / "course.webp").exists()


@pytest.mark.parametrize("what", ["write_set", "write_whole"])
def test_a_full_disk_costs_warnings_and_not_the_run(tmp_path, monkeypatch, what):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    distiller = toy_distiller(tmp_path, eval_steps=1, wait_for_room=3600)
    monkeypatch.setattr(report, what, full)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert distiller.train().global_step == 4
    texts = [str(warning.message) for warning in caught]
    if what == "write_set":
        assert len(texts) == 1
        assert "the files of the run so far could not be written" in texts[0]
        assert "No space left on device" in texts[0]
    else:
        assert all("is whole, but it lacks log.jsonl" in text for text in texts)
        DistilledDataset.from_pretrained(tmp_path)


def test_the_hub_is_not_asked_while_the_run_lasts(tmp_path, monkeypatch):
    asked = []

    def licenses_of(name):
        asked.append(name)
        return ["mit"]

    monkeypatch.setattr("dd_plugin.hub.remote.download.licenses_of", licenses_of)
    distiller = toy_distiller(tmp_path, eval_steps=1, save_steps=2)
    distiller.train_data.public_name = "ada/toy"
    distiller.train()
    assert asked == []
    assert read_record(tmp_path).source.hub_id == "ada/toy"
    distiller.save_model()
    assert asked == ["ada/toy"]
    assert read_record(tmp_path).source.licenses == ("mit",)
