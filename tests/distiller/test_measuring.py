"""`dd_plugin.distiller.measuring`: the steps of a run are measured, and the run stays as it was."""

import itertools

import pytest
import torch

from dd_plugin.distiller.measuring import Measured, measure
from dd_plugin.distiller.outer_step import OuterStep
from tests.distiller.toy import SHALLOW, head_distiller, toy_distiller


def step_of(distiller):
    run, state = distiller._run, distiller._train_state
    step = distiller._outer_step
    return OuterStep(
        run, state, real_batch=distiller.real_batch, window=step.window, storage=step.storage
    )


@pytest.mark.parametrize(
    "options",
    [
        {"compile": "trace", "model_args": SHALLOW},
        {"init": "pool", "window": "last", "window_length": 2, "pool_size": 2},
        {"model": ["timm/dd_convnet"] * 2, "model_args": [SHALLOW, {**SHALLOW, "width": 6}]},
    ],
    ids=["traced", "pool", "several"],
)
def test_a_run_that_was_measured_is_the_same_to_the_bit(tmp_path, options):
    plain = toy_distiller(tmp_path / "a", **options)
    plain.train()
    measured = toy_distiller(tmp_path / "b", **options)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    times = measure(step_of(measured))
    assert torch.equal(torch.get_rng_state(), before)
    assert min(times.step, times.testing) > 0
    assert measured.state.global_step == measured.state.inner_steps == 0
    measured.train()
    assert torch.equal(plain.synthetic.images(), measured.synthetic.images())
    assert torch.equal(plain.synthetic.step_sizes(), measured.synthetic.step_sizes())
    outer = [
        [line["outer_loss"] for line in one.state.log_history if "outer_loss" in line]
        for one in (plain, measured)
    ]
    assert outer[0] == outer[1]


def test_the_second_of_two_steps_is_timed(tmp_path):
    step = step_of(toy_distiller(tmp_path))
    tried = []

    class Counted(OuterStep):
        def try_out(self):
            tried.append(self.state.position.global_step)

    counted = Counted(**vars(step))
    ticks = itertools.count()
    times = measure(counted, clock=lambda: next(ticks))
    assert tried == [0, 0]
    # Every piece of work takes one tick of that clock.
    assert (times.step, times.training, times.per_image) == (1, 1, 0)
    assert times.testing == 1 / 16


def test_images_pass_through_a_frozen_network_and_no_features_are_computed(tmp_path):
    distiller = head_distiller(tmp_path)
    times = measure(step_of(distiller))
    assert times.step > 0
    assert times.testing > 0
    assert distiller.head.train == []


def test_training_on_more_images_takes_longer():
    assert Measured(1.0, 0.5, 0.25, 0.0).training_step(4) == 1.5
