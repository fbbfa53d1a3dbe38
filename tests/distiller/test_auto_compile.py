"""`dd_plugin.distiller.auto_compile`: the switch at a step number, resumed to the bit.

Times, cores and the process beside the run are injected. What stands in for the compiler rounds
otherwise than a trace.
"""

import json

import pytest
import torch

from dd_plugin.bilevel.tracing import compile as compiling
from dd_plugin.distiller.auto_compile import CHOICE
from tests.distiller.choosing import AUTO, Beside, Injected, use_quick_compiler
from tests.distiller.test_checkpoint import StopsAt, check_same
from tests.distiller.toy import toy_distiller


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch):
    use_quick_compiler(monkeypatch)


class SwitchesAt(StopsAt):
    """A run that is compiled from a step on, by hand."""

    def on_step_end(self, config, state, control, **kwargs):
        if state.global_step == self.step:
            kwargs["distiller"].architectures.problems[0].compile = True


def by_hand(folder, step, **options):
    """The run without a trial or a choice, switched after a step."""
    settings = {**AUTO, **options, "compile": "trace"}
    distiller = toy_distiller(folder, callbacks=[SwitchesAt(step)], **settings)
    distiller.train()
    return distiller.synthetic.state_dict()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"init": "pool", "window": "last", "window_length": 2, "pool_size": 2, "pool_max_steps": 6},
        {"networks_per_step": 2, "batch_networks": True},
        {"augmentation": "flip_rotate", "init": "fixed"},
    ],
)
def test_the_run_is_traced_until_its_step_and_compiled_after_it(tmp_path, monkeypatch, options):
    injected = Injected(monkeypatch)
    auto = toy_distiller(tmp_path / "auto", **AUTO, **options)
    auto.train()
    choice = auto.state.choices["compile"]
    assert (choice["compile"], choice["from_step"]) == ("inductor", 6)
    assert "50 s compiled and 100 s traced" in choice["reason"]
    (beside,) = injected.begun
    assert beside.stopped
    assert injected.trials == 5
    if "batch_networks" in options:
        return  # by hand it would be traced on: it is a copy of the problem that is run
    check_same(by_hand(tmp_path / "hand", 6, **options), auto.synthetic.state_dict())
    other = by_hand(tmp_path / "other", 7, **options)
    assert any(not torch.equal(t, other[n]) for n, t in auto.synthetic.state_dict().items())


def test_it_is_told_logged_and_recorded(tmp_path, monkeypatch, capfd):
    Injected(monkeypatch)
    auto = toy_distiller(tmp_path, **AUTO)
    auto.train()
    auto.save_model()
    line = "steps are compiled by inductor from step 7 on: a step takes 50 s compiled and 100 s"
    assert f"compile: {line}" in capfd.readouterr().err
    assert [h["compile"][: len(line)] for h in auto.state.log_history if "compile" in h] == [line]
    config = json.loads((tmp_path / "recipe.json").read_text())["about"]["config"]
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
    assert (tmp_path / CHOICE).exists() == has_chosen
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


def test_a_new_run_in_the_folder_forgets_the_choice_of_the_last(tmp_path, monkeypatch):
    injected = Injected(monkeypatch)
    options = {**AUTO, "save_steps": 10}
    toy_distiller(tmp_path, **options).train()
    assert (tmp_path / CHOICE).exists()
    injected.times = {"traced": 0.01, "compiled": 0.005}
    again = toy_distiller(tmp_path, overwrite_output_dir=True, **options)
    again.train()
    assert again.state.choices["compile"]["compile"] == "trace"
    assert json.loads((tmp_path / CHOICE).read_text())["compile"] == "trace"


def reason_of(folder, **options):
    distiller = toy_distiller(folder, **AUTO, **options)
    distiller.train()
    choice = distiller.state.choices["compile"]
    assert choice["compile"] == "trace"
    problems = distiller.architectures.problems
    assert all(problem.compile == "trace" for problem in problems)
    # Nothing of the other way is left.
    assert {key[1] for problem in problems for key in problem.compiled} == {"trace"}
    return choice["reason"]


def test_compiled_steps_that_are_no_faster_are_not_taken(tmp_path, monkeypatch):
    Injected(monkeypatch, compiled=97.0)
    assert reason_of(tmp_path) == "a step takes 97 s compiled and 100 s traced"


def test_short_runs_never_compile(tmp_path, monkeypatch):
    injected = Injected(monkeypatch, traced=0.5, compiled=0.1)
    assert reason_of(tmp_path) == "compiling does not pay for the remaining 13 s"
    assert (injected.trials, injected.begun) == (0, [])


def test_without_a_core_for_it_the_run_compiles_itself(tmp_path, monkeypatch):
    injected = Injected(monkeypatch, cores=1)
    distiller = toy_distiller(tmp_path, **AUTO)
    distiller.train()
    assert distiller.state.choices["compile"]["compile"] == "inductor"
    assert injected.begun == []


class Broken(Beside):
    """A process that fails."""

    def __init__(self, *given):
        super().__init__(*given, failure="no compiler")


def cannot_start(*_):
    raise OSError("no more processes")


@pytest.mark.parametrize(("fill", "reason"), [(Broken, "no compiler"), (cannot_start, "no more")])
def test_a_process_that_fails_is_a_line_in_the_log(tmp_path, monkeypatch, caplog, fill, reason):
    Injected(monkeypatch, fill=fill)
    distiller = toy_distiller(tmp_path, **AUTO)
    distiller.train()
    assert [r.message for r in caplog.records if reason in r.message] != []
    # There was time enough to compile in the run.
    assert distiller.state.choices["compile"]["compile"] == "inductor"


def test_a_compiler_that_fails_leaves_the_run_traced(tmp_path, monkeypatch):
    Injected(monkeypatch)

    def broken(self):
        raise RuntimeError("the compiler is not well")

    monkeypatch.setattr(compiling.CompiledGraph, "_compile", broken)
    assert "the compiler is not well" in reason_of(tmp_path / "auto")


def test_a_trial_that_runs_out_of_memory_leaves_the_run_traced(tmp_path, monkeypatch):
    Injected(monkeypatch)

    def broken(self):
        raise MemoryError("no memory left")

    monkeypatch.setattr(compiling.CompiledGraph, "_compile", broken)
    assert reason_of(tmp_path) == "compiling failed: no memory left"


def test_the_process_is_ended_with_the_run(tmp_path, monkeypatch):
    injected = Injected(monkeypatch)
    toy_distiller(tmp_path, callbacks=[StopsAt(5)], **AUTO).train()
    (beside,) = injected.begun
    assert beside.stopped == 1


def test_a_run_that_is_extended_chooses_again(tmp_path, monkeypatch):
    injected = Injected(monkeypatch)
    options = {**AUTO, "max_steps": 6, "lr_scheduler_type": "constant"}
    distiller = toy_distiller(tmp_path, **options)
    distiller.train()
    assert distiller.state.choices["compile"]["compile"] == "trace"
    distiller.config.max_steps = 40
    distiller.train()
    assert distiller.state.choices["compile"]["compile"] == "inductor"
    assert len(injected.made) == 2


@pytest.mark.parametrize(
    "options", [{"compile": "trace"}, {"compile": "no"}, {"method": "reverse"}]
)
def test_other_ways_are_not_touched(tmp_path, monkeypatch, options):
    injected = Injected(monkeypatch)
    distiller = toy_distiller(tmp_path, **{**AUTO, **options})
    before = distiller.architectures.problems[0].compile
    distiller.train()
    assert distiller.architectures.problems[0].compile == before
    assert "compile" not in distiller.state.choices
    assert injected.trials == 0
