"""Runs with ``compile: auto``: traced until their step, compiled after it, resumed to the bit.

Times, cores and the process beside the run are injected. What stands in for the compiler rounds
otherwise than a trace.
"""

import json

import pytest
import torch

from dd_plugin.bilevel.ahead import run_as
from dd_plugin.bilevel.tracing.way import Way
from dd_plugin.distiller.auto_compile import CHOICES
from dd_plugin.distiller.storage_choice import choose_activations
from tests.distiller.choosing import AUTO, Injected, use_quick_compiler
from tests.distiller.test_checkpoint import StopsAt, check_same
from tests.distiller.toy import toy_distiller


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch):
    use_quick_compiler(monkeypatch)


class SwitchesAt(StopsAt):
    """A run that is compiled from a step on, by hand."""

    def on_step_end(self, config, state, control, **kwargs):
        if state.global_step == self.step:
            distiller = kwargs["distiller"]
            run_as(distiller.architectures.problems[0], Way(True))
            choose_activations(distiller._run, distiller._train_state)


def by_hand(folder, step, **options):
    """The run without a trial or a choice, switched after a step."""
    settings = {**AUTO, **options, "compile": "trace", "memory_format": "contiguous"}
    distiller = toy_distiller(folder, callbacks=[SwitchesAt(step)], **settings)
    distiller.train()
    return distiller.synthetic.state_dict()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"init": "pool", "window": "last", "window_length": 2, "pool_size": 2, "pool_max_steps": 6},
        {"networks_per_step": 2, "batch_networks": True, "augmentation": "flip_rotate"},
    ],
)
def test_the_run_is_traced_until_its_step_and_compiled_after_it(
    tmp_path, monkeypatch, capfd, options
):
    injected = Injected(monkeypatch)
    auto = toy_distiller(tmp_path / "auto", **AUTO, **options)
    auto.train()
    choice = auto.state.choices["compile"]
    assert (choice["compile"], choice["from_step"]) == ("inductor", 6)
    assert "50 s compiled and 100 s traced" in choice["reason"]
    (beside,) = injected.begun
    assert beside.stopped
    assert injected.trials == 5
    check_same(by_hand(tmp_path / "hand", 6, **options), auto.synthetic.state_dict())
    if options:
        return
    # Steps are not the same either way.
    other = by_hand(tmp_path / "other", 7)
    assert any(not torch.equal(t, other[n]) for n, t in auto.synthetic.state_dict().items())
    auto.save_model()
    line = "steps are compiled by inductor from step 7 on: a step takes 50 s compiled and 100 s"
    assert f"compile: {line}" in capfd.readouterr().err
    assert [h["compile"][: len(line)] for h in auto.state.log_history if "compile" in h] == [line]
    config = json.loads((auto.output_dir / "recipe.json").read_text())["about"]["config"]
    assert config["compile"] == "auto"
    assert config["chosen"]["compile"]["from_step"] == 6


# The switch is at step 6, checkpoints are of steps 4 and 8.
@pytest.mark.parametrize("killed_at", [5, 7, 9])
def test_a_resumed_run_obeys_and_measures_nothing(tmp_path, monkeypatch, killed_at):
    injected = Injected(monkeypatch)
    options = {**AUTO, "save_steps": 4}
    killed = toy_distiller(tmp_path, callbacks=[StopsAt(killed_at)], **options)
    killed.train()
    killed._files.lock.release()
    has_chosen = killed_at > 6
    assert ("compile" in killed.state.choices) == has_chosen
    assert (tmp_path / CHOICES).exists() == has_chosen
    trials, begun = injected.trials, len(injected.begun)
    resumed = toy_distiller(tmp_path, **options)
    if has_chosen:
        # It would choose another step now.
        injected.times = {"traced": 100, "compiled": 99}
    resumed.train(resume_from_checkpoint="latest")
    step = resumed.state.choices["compile"]["from_step"]
    check_same(by_hand(tmp_path / "hand", step), resumed.synthetic.state_dict())
    if has_chosen:
        assert step == 6
        assert (injected.trials, len(injected.begun)) == (trials, begun)


# Of a long run: the layout and kept activations from step 4 on, compiled from step 9 on.
LONG = {**AUTO, "max_steps": 46, "save_steps": 4, "model": "timm/dd_convnet"}
LONG |= {"model_args": {"width": 2, "depth": 2, "norm_layer": "batchnorm2d"}}


@pytest.mark.parametrize("killed_at", [5, 11])
def test_a_long_run_with_every_choice_is_resumed_to_the_bit(tmp_path, monkeypatch, killed_at):
    monkeypatch.setattr("dd_plugin.distiller.storage_choice.free_memory", lambda _: 8 << 30)
    injected = Injected(monkeypatch, last=20.0)
    whole = toy_distiller(tmp_path / "whole", **LONG)
    whole.train()
    choices = whole.state.choices
    assert choices["memory_format"]["channels_last"]
    assert choices["memory_format"]["from_step"] == choices["storage"]["activations_from"] == 4
    assert (choices["compile"]["compile"], choices["compile"]["from_step"]) == ("inductor", 9)
    (problem,) = whole.architectures.problems
    assert problem.way == Way(True, channels_last=True)
    killed = toy_distiller(tmp_path / "killed", callbacks=[StopsAt(killed_at)], **LONG)
    killed.train()
    killed._files.lock.release()
    # It would choose otherwise now, as far as it has chosen.
    injected.times = {"last": 20.0} if killed_at < 11 else {"last": -100.0, "compiled": 200.0}
    resumed = toy_distiller(tmp_path / "killed", **LONG)
    resumed.train(resume_from_checkpoint="latest")
    if killed_at == 11:
        assert resumed.state.choices == choices
        check_same(whole.synthetic.state_dict(), resumed.synthetic.state_dict())
    else:
        # Between the choices steps are timed anew, so compiling begins later.
        assert resumed.state.choices["memory_format"] == choices["memory_format"]
        assert resumed.state.choices["compile"]["from_step"] >= 9
