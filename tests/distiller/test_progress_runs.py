"""The numbers of a line of the log: a loss where there was one, a speed, and none counted twice."""

import pytest

from dd_plugin.distiller import DistillerCallback
from tests.distiller.skips import Skips
from tests.distiller.toy import toy_distiller


def test_a_line_of_steps_that_did_not_count_has_no_loss(tmp_path):
    distiller = toy_distiller(tmp_path, max_steps=4, logging_steps=2, callbacks=[Skips({0, 1})])
    distiller.train()
    first, second = distiller.state.log_history
    assert "outer_loss" not in first
    assert first["skipped_steps"] == 2
    assert second["outer_loss"] > 0


class StopsAt(DistillerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, config, state, control, **kwargs):
        control.should_training_stop |= state.global_step == self.step


def lines_of(distiller):
    """The log of a run without what depends on the machine."""
    timed = ("second", "memory")
    return [
        {k: v for k, v in line.items() if not any(word in k for word in timed)}
        for line in distiller.state.log_history
    ]


LOGGED = {"max_steps": 6, "logging_steps": 3, "save_steps": 1}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    distiller = toy_distiller(tmp_path_factory.mktemp("whole"), **LOGGED)
    distiller.train()
    return lines_of(distiller)


# Before a line, at one, and after it.
@pytest.mark.parametrize("step", [2, 3, 4])
def test_the_log_of_a_resumed_run_is_that_of_an_undisturbed_one(tmp_path, undisturbed, step):
    toy_distiller(tmp_path, callbacks=[StopsAt(step)], **LOGGED).train()
    resumed = toy_distiller(tmp_path, **LOGGED)
    resumed.train("latest")
    assert resumed.state.global_step == 6
    assert len(undisturbed) == 2
    assert lines_of(resumed) == undisturbed


def test_copies_count_as_images_of_the_speed(tmp_path):
    rates = {}
    for copies in (1, 4):
        distiller = toy_distiller(
            tmp_path / str(copies), augmentation="noise", augmentations_per_step=copies
        )
        distiller.train()
        line = distiller.state.log_history[-1]
        real = line["outer_steps_per_second"] * distiller.config.real_batch_size
        rates[copies] = (line["images_per_second"] - real) / line["inner_steps_per_second"]
    assert rates == {1: pytest.approx(3), 4: pytest.approx(12)}
