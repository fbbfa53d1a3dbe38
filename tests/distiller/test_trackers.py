"""`dd_plugin.distiller.trackers`: what cannot be written to costs one warning."""

from types import SimpleNamespace

import pytest

from dd_plugin.distiller.trackers import Trackers, make_accelerator
from tests.distiller.toy import toy_config


class Full:
    """Trackers on a disk without room."""

    trackers = ()

    def __init__(self):
        self.calls = []

    def log(self, values, step):
        self.calls.append(step)
        raise OSError("no space left on device")

    def end_training(self):
        raise OSError("no space left on device")


def test_a_full_disk_is_told_once():
    accelerator = Full()
    trackers = Trackers(accelerator, ["tensorboard", "mine"])
    with pytest.warns(UserWarning, match=r"the trackers tensorboard, mine cannot be written to"):
        trackers.log({"loss": 1.0}, 1)
    trackers.log({"loss": 1.0}, 2)  # warnings are errors here
    assert accelerator.calls == [1]
    with pytest.warns(UserWarning, match="could not be closed"):
        trackers.close()


def test_settings_are_given_as_trackers_take_them(tmp_path):
    started = []
    accelerator = SimpleNamespace(init_trackers=lambda name, values: started.append((name, values)))
    trackers = Trackers(accelerator, [])
    trackers.start(toy_config(tmp_path))
    assert not started
    trackers.start(toy_config(tmp_path, report_to=["tensorboard"], run_name="mine"))
    ((name, values),) = started
    assert name == "mine"
    assert {type(value) for value in values.values()} <= {int, float, str, bool}


def test_the_name_none_is_no_tracker(tmp_path):
    assert not make_accelerator(toy_config(tmp_path, report_to=["none"])).log_with


def test_one_of_several_processes_is_not_taken_for_the_only_one(tmp_path, monkeypatch):
    alone = SimpleNamespace(num_processes=1)
    monkeypatch.setattr("dd_plugin.distiller.trackers.Accelerator", lambda **_: alone)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert make_accelerator(toy_config(tmp_path)) is alone
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ValueError, match=r"2 processes were started.*ACCELERATE_USE_CPU=true"):
        make_accelerator(toy_config(tmp_path))
