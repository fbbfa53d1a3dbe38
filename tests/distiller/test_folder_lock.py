"""The lock of a run on its folder: held while it lasts, by living processes only, and told of."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dd_plugin.distiller import DistillerCallback, FolderInUseError, FolderTakenError
from dd_plugin.distiller.folder_lock import HOLDER, LOCK, FolderLock, check_not_in_use
from dd_plugin.distiller.run_folder import set_in
from dd_plugin.hub import DistilledDataset
from tests.distiller.toy import toy_distiller
from tests.processes import start_prepared

HOLDS = """
import os, sys, time
from pathlib import Path
from dd_plugin.distiller.folder_lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
lock.acquire()
if "fork" in sys.argv:
    child = os.fork()
    if not child:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path_factory):
    """Starts a process that holds a folder."""
    started = []

    def start(folder, *words):
        process = start_prepared(HOLDS, folder, *words, folder=tmp_path_factory.mktemp("h") / "run")
        started.append(process)
        process.wait_for("held\n")
        return process

    yield start
    for process in started:
        process.kill()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr("dd_plugin.distiller.folder_lock._PATIENCE", 0.2)


def test_a_folder_in_use_is_refused_and_free_when_its_process_is_gone(tmp_path, holder):
    folder = tmp_path / "out"
    process = holder(folder)
    (pid,) = process.pids
    who = rf"in use by a run of process {pid} on {re.escape(socket.gethostname())} since 20"
    for overwrite in (False, True):
        with pytest.raises(FolderInUseError, match=who):
            toy_distiller(folder, overwrite_output_dir=overwrite)
    with pytest.raises(FolderInUseError, match=who):
        FolderLock(folder).acquire()
    assert process.kill().returncode == -signal.SIGKILL
    assert (folder / HOLDER).exists()  # what it told is still there, and does not count
    toy_distiller(folder, max_steps=1).train()


def test_a_run_that_began_meanwhile_is_refused_at_the_first_step(tmp_path, holder):
    folder = tmp_path / "out"
    distiller = toy_distiller(folder, max_steps=1, overwrite_output_dir=True)
    holder(folder)
    with pytest.raises(FolderInUseError):
        distiller.train()
    assert distiller.state.global_step == 0
    with pytest.raises(FolderInUseError):
        distiller.save_model()
    # Nothing is lost: it goes elsewhere.
    assert DistilledDataset.from_pretrained(distiller.save_model(tmp_path / "elsewhere"))


def test_a_forked_child_does_not_let_go(tmp_path, holder):
    holder(tmp_path, "fork")
    with pytest.raises(FolderInUseError):
        check_not_in_use(tmp_path)


LIVING = {"process": os.getppid(), "host": socket.gethostname(), "since": "now"}
TEXTS = st.one_of(
    st.binary(max_size=40),
    st.just(json.dumps(LIVING).encode()),
    st.just(json.dumps({**LIVING, "process": 1}).encode()),
    st.just(json.dumps({**LIVING, "host": "elsewhere"}).encode()),
    st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists, max_leaves=3).map(
        lambda value: json.dumps(value).encode()
    ),
)


@given(TEXTS, TEXTS)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_left_of_a_dead_run_never_holds(tmp_path, told, content):
    """A process that lives under the number of a dead one, and anything else in the files."""
    (tmp_path / HOLDER).write_bytes(told)
    (tmp_path / LOCK).write_bytes(content)
    check_not_in_use(tmp_path)
    lock = FolderLock(tmp_path)
    lock.acquire()
    assert lock.held
    assert json.loads((tmp_path / HOLDER).read_text())["process"] == os.getpid()
    lock.release()
    assert not lock.held
    assert not (tmp_path / HOLDER).exists()


def test_a_message_about_a_holder_of_whom_nothing_is_known(tmp_path, holder):
    holder(tmp_path)
    (tmp_path / HOLDER).write_text("{")
    with pytest.raises(FolderInUseError, match="in use by a run of another process; give"):
        check_not_in_use(tmp_path)


def test_two_runs_of_one_process(tmp_path):
    refused = []

    class Second(DistillerCallback):
        def on_step_end(self, config, state, control, **kwargs):
            with pytest.raises(FolderInUseError) as caught:
                toy_distiller(tmp_path, overwrite_output_dir=True)
            refused.append(caught.value)

    first = toy_distiller(tmp_path, max_steps=1, callbacks=[Second()])
    first.train()
    assert len(refused) == 1
    first.save_model()
    mine = set_in(tmp_path)
    # It has ended, so another one takes the folder over.
    second = toy_distiller(tmp_path, max_steps=1, seed=1, overwrite_output_dir=True)
    second.train()
    assert second._files.lock.held
    second.save_model()
    theirs = set_in(tmp_path)
    assert theirs not in (None, mine)
    with pytest.raises(FolderTakenError, match="did not write"):
        first.save_model()
    assert set_in(tmp_path) == theirs


def test_the_folder_is_looked_at_again_before_a_set_is_written(tmp_path):
    other = toy_distiller(tmp_path / "other", max_steps=1, seed=1)
    other.train()
    distiller = toy_distiller(tmp_path / "out", max_steps=1)
    distiller.train()
    DistilledDataset.from_pretrained(other.save_model()).save_pretrained(tmp_path / "out")
    there = set_in(tmp_path / "out")
    with pytest.raises(FolderTakenError, match="holds a distilled set that this run did not write"):
        distiller.save_model()
    assert set_in(tmp_path / "out") == there
    # Where it may go instead, it does.
    distiller.config.rescue_dir = str(tmp_path / "rescue")
    assert distiller.save_model() == tmp_path / "rescue" / "out"


def test_a_set_is_not_written_over_that_of_a_run_which_was_never_trained(tmp_path):
    first = toy_distiller(tmp_path, max_steps=1)
    first.train()
    first.save_model()
    del first
    with pytest.raises(FolderTakenError):
        toy_distiller(tmp_path, seed=1).save_model()


def test_rows_of_an_evaluation_do_not_make_it_another_set(tmp_path):
    from dd_plugin.hub.ledger import add_to_record
    from dd_plugin.hub.reading import read_record
    from dd_plugin.hub.record import Evaluation

    distiller = toy_distiller(tmp_path, max_steps=1)
    distiller.train()
    distiller.save_model()
    files = read_record(tmp_path).files
    row = {
        "model": "timm/x",
        "trained_on": "distilled images",
        "images": 3,
        "mean": 0.5,
        "std": 0.0,
        "accuracies": [0.5],
        "seeds": [1],
        "pixels": "exact",
        "split": "test",
        "dataset": None,
    }
    add_to_record(tmp_path, Evaluation.from_json(row), files)
    distiller.save_model()
    record = json.loads((tmp_path / "recipe.json").read_text())
    assert len(record["evaluations"]) == 1


def test_runs_that_end_early_let_go(tmp_path, monkeypatch):
    class Fails(DistillerCallback):
        def on_step_end(self, config, state, control, **kwargs):
            raise RuntimeError("enough")

    class Interrupts(DistillerCallback):
        def on_step_end(self, config, state, control, **kwargs):
            if state.global_step == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    fails = toy_distiller(tmp_path / "a", callbacks=[Fails()])
    with pytest.raises(RuntimeError, match="enough"):
        fails.train()
    interrupted = toy_distiller(tmp_path / "b", callbacks=[Interrupts()])
    assert interrupted.train().interrupted == "SIGTERM"
    done = toy_distiller(tmp_path / "c", max_steps=1)
    done.train()
    held = [run._files.lock.held for run in (fails, interrupted, done)]
    assert held == [False, False, True]
    lock = done._files.lock
    del done  # the folder of a run that nobody has any more
    import gc

    gc.collect()
    assert not lock.held


def test_a_file_system_without_locks_costs_a_warning(tmp_path, monkeypatch):
    from dd_plugin.distiller import folder_lock

    class Lock:
        def __init__(self, *args, **kwargs):
            pass

        def acquire(self, **kwargs):
            raise NotImplementedError("no locks here")

    monkeypatch.setattr(folder_lock, "FileLock", Lock)
    (tmp_path / LOCK).touch()
    distiller = toy_distiller(tmp_path, max_steps=1)
    with pytest.warns(UserWarning, match="cannot be locked .no locks here.; a second run"):
        distiller.train()
    with pytest.warns(UserWarning, match="cannot be locked"):
        assert distiller.save_model() == tmp_path


def test_a_run_clears_away_what_a_killed_one_left(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    )
    dead = int(done.stdout)
    (tmp_path / "data").mkdir()
    (tmp_path / ".checkpoint-3.partial").mkdir()
    (tmp_path / ".checkpoint-3.partial" / "state.json").write_text("{")
    left = [
        tmp_path / f".recipe.json.{dead}-0123abcd.partial",
        tmp_path / f".tensors.safetensors.{dead}.partial",
        tmp_path / "data" / f".train-00000-of-00001.parquet.{dead}-0123abcd.partial",
    ]
    mine = [tmp_path / ".notes.partial", tmp_path / "recipe.partial"]
    for path in [*left, *mine]:
        path.write_text("half")
    toy_distiller(tmp_path, max_steps=1).train()
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in mine)
    assert not (tmp_path / ".checkpoint-3.partial").exists()
