"""`dd_plugin.distiller.auto_compile`: when what is tried, chosen and written, on stand-ins.

Whole runs are in `together/test_auto_compile_runs.py`. Times, cores and the process beside the run
are injected.
"""

import json
from types import SimpleNamespace

import pytest
import torch

from dd_plugin.bilevel.tracing.way import Way
from dd_plugin.distiller import auto_compile
from dd_plugin.distiller.auto_compile import CHOICES, AutoCompile, later_choices
from dd_plugin.distiller.callbacks import DistillerState
from dd_plugin.distiller.run import Run
from tests.distiller.choosing import Beside

TRACE, COMPILED = Way("trace"), Way(True)
LAST = Way("trace", channels_last=True)


class Problem:
    """A problem that has traced some functions."""

    def __init__(self, *functions, convolutions=0):
        self.compile, self.channels_last = TRACE
        self.compiled = dict.fromkeys(functions)
        self.runs_eagerly = set()
        self.recordings = SimpleNamespace(by_kind={(TRACE, 1): None})
        self.model = SimpleNamespace(convolutions=convolutions)

    @property
    def way(self):
        return Way(self.compile, self.channels_last)


class Machine:
    """A run of steps that take as long as their way says, and what it did."""

    def __init__(
        self,
        folder,
        *,
        steps=30,
        cores=2,
        traced=100.0,
        compiled=50.0,
        last=None,
        fill=Beside,
        **settings,
    ):
        self.seconds = {TRACE: traced, COMPILED: compiled}
        self.seconds |= {Way(w.compile, True): last or s for w, s in self.seconds.items()}
        self.now, self.ways, self.trials, self.begun = 0.0, [], 0, []
        self.problem = Problem(("gradient", TRACE), convolutions=2 if last else 0)
        config = SimpleNamespace(
            compile="auto",
            memory_format="auto",
            batch_networks=False,
            disable_tqdm=True,
            method="mixed",
            max_steps=steps,
            save_steps=5,
            storage="auto",
            activation_memory=None,
            window="full",
            inner_steps=3,
        )
        vars(config).update(settings)
        accelerator = SimpleNamespace(
            device=torch.device("cpu"),
            num_processes=1,
            is_main_process=True,
            is_local_main_process=True,
        )
        self.run = Run(config, accelerator, networks_per_step=1, folder=folder)
        self.state = SimpleNamespace(
            networks=SimpleNamespace(problems=[self.problem]),
            position=DistillerState(max_steps=steps),
            synthetic=SimpleNamespace(recipe=None),
        )
        self.cores, self.fill = cores, fill

    def step(self):
        self.ways.append(self.problem.way)
        self.run_functions()
        self.state.position.global_step += 1
        return 1.0

    def try_out(self):
        self.trials += 1
        self.run_functions()

    def run_functions(self):
        self.problem.compiled.setdefault(("gradient", self.problem.way))
        self.now += self.seconds[self.problem.way]

    def start(self, *given):
        self.begun.append(self.fill(*given))
        return self.begun[-1]

    def go(self, until=None):
        """Take steps; returns the choice, if there is one."""
        auto = AutoCompile(
            self.run,
            self.state,
            self.try_out,
            clock=lambda: self.now,
            fill=self.start,
            cores=self.cores,
        )
        with auto:
            while self.state.position.global_step < (until or self.run.config.max_steps):
                auto.take(self.step)
        return self.state.position.choices.get("compile")


@pytest.fixture(autouse=True)
def notes(monkeypatch):
    """What was noted of the compiler's cache, which is empty at first."""
    noted = []
    monkeypatch.setattr(auto_compile, "is_filled", lambda *_: bool(noted))
    monkeypatch.setattr(auto_compile, "note_filled", lambda *_: noted.append(1))
    return noted


def traced_with(machine):
    """The reason why a run stayed traced."""
    choice = machine.go()
    assert choice["compile"] == "trace"
    assert machine.problem.way == TRACE
    assert set(machine.ways) == {TRACE}
    return choice["reason"]


def test_steps_are_timed_the_cache_is_filled_and_the_run_switches(tmp_path, notes, capfd):
    machine = Machine(tmp_path)
    choice = machine.go()
    # Steps 0 to 2 are timed; the process beside is looked at before 4 and 5.
    assert (choice["compile"], choice["from_step"]) == ("inductor", 5)
    assert machine.ways == [TRACE] * 5 + [COMPILED] * 25
    # Recordings of the other way are dropped, too.
    assert machine.problem.recordings.by_kind == {}
    # Once to compile, then in turns.
    assert machine.trials == 5
    assert [beside.stopped for beside in machine.begun] == [1]
    assert notes
    assert "step 6 on: a step takes 50 s compiled and 100 s traced" in capfd.readouterr().err
    assert json.loads((tmp_path / CHOICES).read_text())["compile"] == choice


def test_the_second_run_on_a_machine_starts_warm(tmp_path, notes):
    notes.append(1)
    machine = Machine(tmp_path)
    assert machine.go()["from_step"] == 3
    assert machine.begun == []


def test_compiled_steps_that_are_no_faster_are_not_taken(tmp_path):
    machine = Machine(tmp_path, compiled=97.0)
    assert traced_with(machine) == "a step takes 97 s compiled and 100 s traced"


def test_memory_for_activations_is_chosen_for_compiled_steps_alone(tmp_path):
    for compiled, has_memory in ((50.0, True), (97.0, False)):
        machine = Machine(tmp_path, compiled=compiled)
        machine.go()
        assert ("activation_memory" in machine.state.position.choices["storage"]) == has_memory


def test_short_runs_never_compile(tmp_path):
    machine = Machine(tmp_path, traced=0.5, compiled=0.1)
    assert traced_with(machine) == "compiling does not pay for the remaining 14 s"
    assert (machine.trials, machine.begun) == (0, [])


def test_without_a_core_for_it_the_run_compiles_itself(tmp_path):
    machine = Machine(tmp_path, cores=1)
    assert machine.go()["compile"] == "inductor"
    assert machine.begun == []


class Broken(Beside):
    """A process that fails."""

    def __init__(self, *given):
        super().__init__(*given, failure="no compiler")


def cannot_start(*_):
    raise OSError("no more processes")


@pytest.mark.parametrize(("fill", "reason"), [(Broken, "no compiler"), (cannot_start, "no more")])
def test_a_process_that_fails_is_a_line_in_the_log(tmp_path, caplog, fill, reason):
    machine = Machine(tmp_path, fill=fill)
    # There is time enough to compile in the run.
    assert machine.go()["compile"] == "inductor"
    assert len([r.message for r in caplog.records if reason in r.message]) == 1


@pytest.mark.parametrize("error", [MemoryError("no memory"), RuntimeError("no memory")])
def test_a_trial_that_fails_leaves_the_run_traced(tmp_path, monkeypatch, error):
    machine = Machine(tmp_path)

    def fails():
        raise error

    machine.try_out = fails
    assert traced_with(machine) == "compiling failed: no memory"


def test_a_compiler_that_fails_leaves_the_run_traced(tmp_path):
    from dd_plugin.bilevel.tracing.compile import warn_of_failure

    machine = Machine(tmp_path)

    def runs_eagerly():
        if machine.problem.compile is True:
            machine.problem.runs_eagerly.add(COMPILED)
            warn_of_failure("gradient", RuntimeError("it is not well"))

    machine.try_out = runs_eagerly
    assert "it is not well" in traced_with(machine)


def test_a_network_that_cannot_be_traced_is_left_alone(tmp_path):
    machine = Machine(tmp_path)
    machine.problem.runs_eagerly.add(TRACE)
    assert "cannot be traced" in traced_with(machine)


def test_nothing_is_decided_before_every_network_is_traced(tmp_path):
    machine = Machine(tmp_path, steps=60)
    other = Problem()
    machine.state.networks.problems.append(other)
    assert machine.go(until=10) is None
    other.compiled["gradient", TRACE] = None
    assert machine.go()["compile"] == "inductor"
    assert other.compile is True


def test_steps_that_trace_are_not_timed(tmp_path):
    machine = Machine(tmp_path)
    step = machine.step

    def tracing():
        machine.problem.compiled[f"function {len(machine.problem.compiled)}", TRACE] = None
        return step()

    machine.step = tracing
    assert machine.go() is None


def test_the_process_is_ended_with_the_run(tmp_path):
    machine = Machine(tmp_path)
    assert machine.go(until=4) is None
    assert [beside.stopped for beside in machine.begun] == [1]


def test_a_choice_is_obeyed_and_nothing_is_measured(tmp_path):
    first = Machine(tmp_path / "a")
    (tmp_path / "a").mkdir()
    choice = first.go()
    second = Machine(tmp_path / "b", compiled=1000.0)
    second.state.position.choices["compile"] = choice
    assert second.go() == choice
    assert second.ways == first.ways
    assert (second.trials, second.begun) == (0, [])
    checkpoint = tmp_path / "a" / "checkpoint-5"
    assert later_choices(checkpoint, 5) == first.state.position.choices
    # A checkpoint of after the choice has it.
    assert later_choices(checkpoint, 6) == {}


def test_another_processor_is_told(tmp_path, caplog):
    machine = Machine(tmp_path)
    choice = Machine(tmp_path).go()
    machine.state.position.choices["compile"] = {**choice, "processor": "another one"}
    machine.go()
    (line,) = [r.message for r in caplog.records]
    assert "compiled for another one" in line


def test_a_run_that_is_extended_chooses_again(tmp_path):
    machine = Machine(tmp_path, steps=6)
    assert machine.go()["compile"] == "trace"
    machine.run.config.max_steps = 60
    assert machine.go()["compile"] == "inductor"
    assert machine.ways[-1] == COMPILED


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"compile": {"compile": "trace"}}'])
def test_a_damaged_file_is_no_choice(tmp_path, text):
    if text is not None:
        (tmp_path / CHOICES).write_text(text)
    assert later_choices(tmp_path / "checkpoint-1", 1) == {}


def test_a_full_disk_is_a_line_in_the_log(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(auto_compile, "write_whole", full)
    assert Machine(tmp_path).go()["compile"] == "inductor"
    assert ["no space left" in r.message for r in caplog.records] == [True]


@pytest.mark.parametrize("setting", [{"compile": "trace"}, {"method": "reverse"}])
def test_other_ways_are_not_touched(tmp_path, setting):
    machine = Machine(tmp_path, **setting)
    assert machine.go() is None
    assert set(machine.ways) == {TRACE}


def test_the_layout_is_tried_first_and_compiled_steps_have_it(tmp_path, capfd):
    machine = Machine(tmp_path, steps=60, last=40.0)
    choice = machine.go()
    layout = machine.state.position.choices["memory_format"]
    assert (layout["channels_last"], layout["from_step"], layout["max_steps"]) == (True, 3, 60)
    # Steps are timed again before compiling is thought of.
    assert choice["from_step"] == 8
    assert machine.ways == [TRACE] * 3 + [LAST] * 57
    assert choice["reason"] == "a step takes 40 s compiled and 40 s traced"
    assert {key[1] for key in machine.problem.compiled} <= {LAST}
    line = "memory_format: channels last from step 4 on: a step takes 40 s with channels last and 1"
    assert line in capfd.readouterr().err
    assert set(json.loads((tmp_path / CHOICES).read_text())) >= {"compile", "memory_format"}


@pytest.mark.parametrize("compile", ["auto", "trace"])
def test_a_layout_is_obeyed_and_nothing_is_measured(tmp_path, compile):
    first = Machine(tmp_path / "a", steps=60, last=40.0, compile=compile)
    (tmp_path / "a").mkdir()
    first.go()
    checkpoint = tmp_path / "a" / "checkpoint-2"
    choices = later_choices(checkpoint, 2)
    assert choices == first.state.position.choices
    second = Machine(tmp_path / "b", steps=60, last=1000.0, compile=compile)
    second.state.position.choices |= choices
    second.go()
    assert second.ways == first.ways
    assert second.trials == 0


def test_a_layout_that_is_no_faster_is_not_taken(tmp_path):
    machine = Machine(tmp_path, steps=60, last=97.0)
    assert machine.go()["compile"] == "inductor"
    assert machine.state.position.choices["memory_format"]["channels_last"] is False
    assert set(machine.ways) == {TRACE, COMPILED}


def test_a_network_that_knows_no_channels_last_stays_contiguous(tmp_path):
    from dd_plugin.bilevel.tracing.compile import warn_of_failure

    machine = Machine(tmp_path, steps=60, last=40.0, compile="trace")

    def runs_eagerly():
        if machine.problem.channels_last:
            machine.problem.runs_eagerly.add(LAST)
            warn_of_failure("gradient", RuntimeError("view size is not compatible"))

    machine.try_out = runs_eagerly
    machine.go()
    layout = machine.state.position.choices["memory_format"]
    assert layout["reason"] == "the network does not compute with channels last"
    assert set(machine.ways) == {TRACE}


def test_short_runs_try_no_layout_until_they_are_extended(tmp_path, capfd):
    machine = Machine(tmp_path, traced=2.0, last=1.0, compile="trace")
    machine.go()
    assert machine.trials == 0
    assert machine.state.position.choices["memory_format"]["reason"] == "the run is short"
    assert "memory_format" not in capfd.readouterr().err
    machine.run.config.max_steps = 200
    machine.go()
    assert machine.state.position.choices["memory_format"]["from_step"] >= 30
    assert machine.ways[-1] == LAST


@pytest.mark.parametrize(
    "settings", [{"memory_format": "contiguous"}, {"batch_networks": True}, {"last": None}]
)
def test_where_no_layout_is_asked_for_none_is_tried(tmp_path, settings, capfd):
    machine = Machine(tmp_path, steps=60, **{"last": 40.0, **settings})
    machine.go()
    assert machine.state.position.choices["memory_format"]["channels_last"] is False
    assert set(machine.ways) == {TRACE, COMPILED}
    assert "memory_format" not in capfd.readouterr().err


def test_a_layout_that_is_asked_for_stays(tmp_path):
    machine = Machine(tmp_path, steps=60, last=40.0, memory_format="channels_last", compile="trace")
    machine.problem.channels_last = True
    machine.go()
    assert set(machine.ways) == {LAST}


@pytest.mark.parametrize(("steps", "keeps"), [(60, True), (30, False)])
def test_traced_steps_of_a_long_run_keep_activations(tmp_path, steps, keeps):
    machine = Machine(tmp_path, steps=steps, compile="trace")
    machine.go()
    storage = machine.state.position.choices.get("storage", {})
    assert ("activation_memory" in storage) == keeps
    assert storage.get("activations_from") == (3 if keeps else None)


def test_an_earlier_run_of_the_trainer_leaves_no_layout_behind(tmp_path):
    machine = Machine(tmp_path, steps=60, last=40.0)
    machine.problem.compile, machine.problem.channels_last = COMPILED
    machine.problem.channels_last = True
    machine.go()
    assert machine.ways[:3] == [TRACE] * 3
