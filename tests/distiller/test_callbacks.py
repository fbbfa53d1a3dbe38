"""Callbacks: what they see, how they end a run, and the ones that every run has."""

from types import SimpleNamespace

import pytest

from dd_plugin import DistillerConfig
from dd_plugin.distiller import Distiller, DistillerCallback, DistillerControl, DistillerState
from dd_plugin.distiller.callbacks import DivergenceCallback
from tests.distiller.toy import toy_distiller


def test_callbacks_see_everything_and_can_end_the_run(tmp_path):
    class Recorder(DistillerCallback):
        def __init__(self):
            self.events = []

        def on_train_begin(self, config, state, control, **kwargs):
            self.events.append("begin")

        def on_step_end(self, config, state, control, **kwargs):
            self.events.append(f"step {state.global_step}")
            control.should_training_stop |= state.global_step == 3
            control.should_evaluate |= state.global_step == 1

        def on_log(self, config, state, control, **kwargs):
            self.events.append("log " + " ".join(sorted(kwargs["logs"]))[:14])

        def on_evaluate(self, config, state, control, **kwargs):
            assert 0 <= kwargs["metrics"]["accuracy_mean"] <= 1
            self.events.append("evaluate")

        def on_train_end(self, config, state, control, **kwargs):
            assert isinstance(kwargs["distiller"], Distiller)
            self.events.append("end")

    recorder = Recorder()
    toy_distiller(tmp_path, callbacks=[recorder], max_steps=9).train()
    assert recorder.events[0] == "begin"
    assert recorder.events[-1] == "end"
    assert [e for e in recorder.events if e.startswith("step")] == ["step 1", "step 2", "step 3"]
    assert recorder.events.index("evaluate") < recorder.events.index("step 2")


def test_the_progress_bar_can_be_left_out(tmp_path, capsys):
    for name, disabled in (("a", True), ("b", False)):
        toy_distiller(tmp_path / name, disable_tqdm=disabled).train()
        assert ("distill: 100%" in capsys.readouterr().err) != disabled


def test_an_evaluation_is_told_with_the_bar_and_without(tmp_path, capsys):
    for name, disabled in (("a", True), ("b", False)):
        distiller = toy_distiller(tmp_path / name, disable_tqdm=disabled, eval_steps=2)
        distiller.train()
        metrics = next(log for log in distiller.state.log_history if "eval_networks" in log)
        mean, std = (f"{100 * metrics[f'eval_accuracy_{part}']:.1f}" for part in ("mean", "std"))
        lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
        assert f"step 2 of 4: accuracy {mean} ± {std} % (2 networks)" in lines


def test_callbacks_may_be_classes(tmp_path):
    class Ends(DistillerCallback):
        def on_step_end(self, config, state, control, **kwargs):
            control.should_training_stop = True

    assert toy_distiller(tmp_path, callbacks=[Ends]).train().global_step == 1
    for wrong, message in ((Ends(), "must be a list"), ([print], "must be of DistillerCallback")):
        with pytest.raises(TypeError, match=message):
            toy_distiller(tmp_path, callbacks=wrong)


def test_a_state_is_a_line_in_a_notebook(tmp_path):
    state = toy_distiller(tmp_path, eval_steps=2, logging_steps=1).train()
    shown = repr(state)
    assert "\n" not in shown
    assert len(shown) < 200
    (evaluated,) = (line for line in state.log_history if "eval_accuracy_mean" in line)
    mean, std = (f"{100 * evaluated[f'eval_accuracy_{part}']:.1f}" for part in ("mean", "std"))
    assert shown.startswith("<DistillerState: 4 of 4 outer steps, outer loss ")
    assert shown.endswith(f", accuracy {mean} ± {std} % (2 networks) at step 2>")


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({}, "<DistillerState: 0 of 0 outer steps>"),
        (
            {"global_step": 2, "max_steps": 300, "skipped_steps": 1, "interrupted": "SIGINT"},
            "<DistillerState: 2 of 300 outer steps, 1 step skipped, interrupted by SIGINT>",
        ),
        (
            {
                "max_steps": 1,
                "log_history": [
                    {
                        "step": 1,
                        "eval_accuracy_mean": 0.5,
                        "eval_accuracy_std": 0.0,
                        "eval_networks": 1.0,
                    }
                ],
            },
            "<DistillerState: 0 of 1 outer step, accuracy 50.0 % (1 network) at step 1>",
        ),
    ],
)
def test_what_the_line_says(values, shown):
    assert repr(DistillerState(**values)) == shown


def test_the_bar_shows_accuracies_in_percent(tmp_path, capsys):
    distiller = toy_distiller(tmp_path, disable_tqdm=False, eval_steps=2, logging_steps=1)
    distiller.train()
    (mean,) = (
        v["eval_accuracy_mean"] for v in distiller.state.log_history if "eval_accuracy_mean" in v
    )
    assert f"accuracy={100 * mean:.1f} %" in capsys.readouterr().err


@pytest.mark.parametrize("is_main", [True, False])
def test_a_run_that_diverges_says_so(is_main, caplog):
    losses = [1.7, 1.6, 1.5, 1.2, 2.3, 2.4, 2.5]
    history = [{"step": n, "outer_loss": loss} for n, loss in enumerate(losses)]
    state, config = DistillerState(log_history=history), DistillerConfig(learning_rate=0.03)
    distiller = SimpleNamespace(accelerator=SimpleNamespace(is_main_process=is_main))
    asked = DivergenceCallback()
    asked.on_log(config, state, DistillerControl(), logs=history[-1], distiller=distiller)
    asked.on_log(config, state, DistillerControl(), logs={"eval": 1}, distiller=distiller)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == is_main
    assert all("`learning_rate` (now 0.03)" in m and "at step 3" in m for m in messages)
