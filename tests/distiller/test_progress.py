"""`dd_plugin.distiller.progress`: a line counts what was done since the one before."""

import math

import pytest
import torch

from dd_plugin.distiller import progress
from dd_plugin.distiller.callbacks import DistillerState
from dd_plugin.distiller.progress import Progress, Workload

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """The seconds that have gone by; a test moves it."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def test_speeds_are_those_since_the_last_line(clock):
    state = DistillerState(global_step=7, inner_steps=50)
    workload = Workload(processes=2, inner_images=10, outer_images=100)
    lines = Progress(state, workload)
    for seconds, outer, inner in ((2.0, 4, 20), (4.0, 2, 40)):
        clock[0] += seconds
        state.global_step += outer
        state.inner_steps += inner
        values = lines.line(0.5, CPU)
        # The inner steps of this process, and as many of the other one.
        assert values["inner_steps_per_second"] == 2 * inner / seconds
        assert values["outer_steps_per_second"] == outer / seconds
        assert values["images_per_second"] == (2 * inner * 10 + outer * 100) / seconds
        assert values["learning_rate"] == 0.5


def test_losses_are_averaged_and_those_that_are_not_finite_left_out(clock):
    state = DistillerState(losses=[4.0], skipped_steps=2, gradient_norms={"images": 0.25})
    lines = Progress(state, Workload(processes=1, inner_images=1, outer_images=1))
    for loss in (1.0, math.nan, math.inf):
        lines.add(loss)
    clock[0] += 1
    values = lines.line(0.1, CPU)
    # With the loss of a checkpoint that was written between two lines.
    assert values["outer_loss"] == 2.5
    assert (values["skipped_steps"], values["grad_norm_images"]) == (2, 0.25)
    assert "outer_loss" not in lines.line(0.1, CPU)
