"""Callbacks and trackers of a run for heads are told what they are told of any run."""

import json

import pytest
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, on_main_process

from dd_plugin.distiller import Distiller, DistillerCallback, DistillerConfig
from tests.distiller.toy import Small, head_distiller, toy_dataset

SETTINGS = {
    "trainable": "head",
    "normalization": "none",
    "max_steps": 4,
    "logging_steps": 2,
    "eval_steps": 2,
    "save_steps": 2,
    "real_batch_size": 16,
    "disable_tqdm": True,
}


class Recorder(DistillerCallback):
    """Notes every event, with the step and what was handed over."""

    def __init__(self):
        self.events = []

    def _note(self, event, state, more):
        assert isinstance(more.pop("distiller"), Distiller)
        self.events.append((event, state.global_step, more))

    def __getattribute__(self, name):
        if name.startswith("on_"):
            return lambda config, state, control, **more: self._note(name, state, more)
        return super().__getattribute__(name)


class JsonTracker(GeneralTracker):
    """Writes a line of JSON for each call."""

    name = "json"
    requires_logging_directory = False

    @on_main_process
    def __init__(self, path):
        super().__init__()
        self.path = path

    @property
    def tracker(self):
        return self.path

    def _write(self, **line):
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    @on_main_process
    def store_init_configuration(self, values):
        self._write(config=values)

    @on_main_process
    def log(self, values, step=None, **kwargs):
        self._write(step=step, values=values)

    @on_main_process
    def log_images(self, values, step=None, **kwargs):
        self._write(step=step, images={name: list(image.shape) for name, image in values.items()})

    @on_main_process
    def finish(self):
        self._write(finished=True)


def test_callbacks_get_every_event_with_finite_values(tmp_path):
    recorder = Recorder()
    config = DistillerConfig(**SETTINGS, output_dir=str(tmp_path / "out"))
    models = [Small(), Small(5, seed=3)]
    run = Distiller(models, config, toy_dataset(), toy_dataset(seed=1), callbacks=[recorder])
    run.train()
    run.evaluate()
    told = [(event, step) for event, step, _ in recorder.events]
    assert told == [
        ("on_train_begin", 0),
        ("on_step_end", 1),
        ("on_step_end", 2),
        ("on_log", 2),
        ("on_log", 2),
        ("on_evaluate", 2),
        ("on_save", 2),
        ("on_step_end", 3),
        ("on_step_end", 4),
        ("on_log", 4),
        ("on_save", 4),
        ("on_train_end", 4),
        ("on_log", 4),
        ("on_evaluate", 4),
    ]
    logs = [more["logs"] for event, _, more in recorder.events if event == "on_log"]
    assert torch.tensor([v for line in logs for v in line.values()]).isfinite().all()
    assert {"outer_loss", "learning_rate"} <= set(logs[0])
    metrics = [more["metrics"] for event, _, more in recorder.events if event == "on_evaluate"]
    assert [m["networks"] for m in metrics] == [2.0, 2.0]  # one value for each backbone
    assert logs[1] == {f"eval_{name}": value for name, value in metrics[0].items()}


def test_a_callback_can_end_the_run(tmp_path):
    class Stop(DistillerCallback):
        def on_step_end(self, config, state, control, **kwargs):
            control.should_training_stop |= state.global_step == 3

    config = DistillerConfig(**SETTINGS, output_dir=str(tmp_path / "out"))
    run = Distiller(Small(), config, toy_dataset(), toy_dataset(seed=1), callbacks=[Stop])
    assert run.train().global_step == 3


def test_a_tracker_gets_the_settings_the_values_and_the_picture(tmp_path):
    tracker = JsonTracker(tmp_path / "log.jsonl")
    config = DistillerConfig(**SETTINGS, report_to=["json"], output_dir=str(tmp_path / "out"))
    run = Distiller(
        Small(),
        config,
        toy_dataset(),
        toy_dataset(seed=1),
        accelerator=Accelerator(log_with=tracker),
    )
    run.train()
    run.end()
    lines = [json.loads(line) for line in tracker.path.read_text().splitlines()]
    assert lines[0]["config"]["trainable"] == "head"
    values = [(line["step"], line["values"]) for line in lines if "values" in line]
    assert [step for step, _ in values] == [2, 2, 4]
    assert "eval_accuracy_mean" in values[1][1]
    (picture,) = [line for line in lines if "images" in line]
    assert picture["step"] == 2
    assert picture["images"]["distilled"][-1] == 3
    assert lines[-1] == {"finished": True}


def test_tensorboard_gets_values_and_the_picture(tmp_path):
    pytest.importorskip("tensorboard", reason="the tracker comes with the extra demo")
    run = head_distiller(tmp_path, report_to=["tensorboard"], eval_steps=2, logging_steps=2)
    run.train()
    run.end()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (log,) = [p.parent for p in tmp_path.rglob("events.out.*") if b"outer_loss" in p.read_bytes()]
    events = EventAccumulator(str(log), {"images": 0, "scalars": 0})
    events.Reload()
    assert [e.step for e in events.Scalars("outer_loss")] == [2, 4]
    assert [e.step for e in events.Images("distilled")] == [2]


def test_a_tracker_that_cannot_begin_is_told_before_features_are_computed(tmp_path, monkeypatch):
    def no_features(*args, **kwargs):
        raise AssertionError("features were computed")

    class Closed(JsonTracker):
        def store_init_configuration(self, values):
            raise RuntimeError("not logged in")

    monkeypatch.setattr("dd_plugin.distiller.real_features.features_of", no_features)
    accelerator = Accelerator(log_with=Closed(tmp_path / "log.jsonl"))
    config = DistillerConfig(**SETTINGS, report_to=["json"], output_dir=str(tmp_path / "out"))
    run = Distiller(Small(), config, toy_dataset(), toy_dataset(seed=1), accelerator=accelerator)
    with pytest.raises(RuntimeError, match="not logged in"):
        run.train()
