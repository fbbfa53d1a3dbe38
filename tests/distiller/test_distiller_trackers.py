"""Trackers of a run: values and the picture, and a warning where they cannot be written to."""

import errno

import pytest

from tests.distiller.toy import toy_distiller
from tests.processes import run_prepared


def test_trackers_that_cannot_be_written_to_cost_one_warning(tmp_path, monkeypatch):
    distiller = toy_distiller(tmp_path, logging_steps=1, max_steps=3, eval_steps=1)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(distiller.accelerator, "log", full)
    monkeypatch.setattr(distiller.accelerator, "end_training", full)
    with pytest.warns(UserWarning, match="the trackers .* cannot be written to .*No space") as told:
        distiller.train()
    assert len(told) == 1
    assert distiller.state.global_step == 3
    assert [h["step"] for h in distiller.state.log_history if "outer_loss" in h] == [1, 2, 3]
    with pytest.warns(UserWarning, match="the trackers could not be closed"):
        distiller.end()


def test_tensorboard_on_a_full_disk(tmp_path):
    pytest.importorskip("tensorboard")
    script = """
import resource, sys
from tests.distiller.toy import toy_distiller
distiller = toy_distiller(
    sys.argv[1], report_to=["tensorboard"], logging_steps=1, max_steps=20, eval_steps=1
)
resource.setrlimit(resource.RLIMIT_FSIZE, (9 * 1024, resource.RLIM_INFINITY))
print("steps", distiller.train().global_step, len(distiller.state.log_history), flush=True)
distiller.end()
"""
    done = run_prepared(script, tmp_path / "out", folder=tmp_path / "program")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "steps 20 39" in done.stdout  # a line per step, and one per evaluation but at the end
    assert "UserWarning: the trackers " in done.stderr


def test_trackers_get_values_and_the_picture(tmp_path):
    pytest.importorskip("tensorboard", reason="the tracker comes with the extra demo")
    distiller = toy_distiller(tmp_path, report_to=["tensorboard"], eval_steps=2)
    distiller.train()
    distiller.accelerator.end_training()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (log,) = [p.parent for p in tmp_path.rglob("events.out.*") if b"outer_loss" in p.read_bytes()]
    events = EventAccumulator(str(log), {"images": 0, "scalars": 0})
    events.Reload()
    assert [e.step for e in events.Scalars("outer_loss")] == [2, 4]
    assert [e.step for e in events.Images("distilled")] == [2]
