"""Runs with `window: adaptive`: what the window has seen is part of the state of the run."""

import json

import pytest
import torch

from dd_plugin.bilevel import Adaptive
from tests.distiller.test_checkpoint import StopsAt, check_same
from tests.distiller.toy import toy_distiller

ADAPTIVE = {
    "window": "adaptive",
    "window_length": 2,
    "inner_steps": 6,
    "max_steps": 12,
    "save_steps": 5,
}


def quick(distiller):
    """The same run with phases of a few steps."""
    distiller.window = Adaptive(2, threshold=10.0, patience=4)
    return distiller


def test_the_window_sees_the_losses_of_every_step(tmp_path):
    distiller = toy_distiller(tmp_path, **ADAPTIVE)
    assert distiller.window == Adaptive(2)
    lengths = []
    for _ in range(6):
        distiller.training_step()
        seen = distiller.state.window
        assert seen["fast"] is not None
        lengths.append(len(seen["losses"]))
    assert lengths == sorted(lengths)
    assert 2 <= lengths[-1] <= 6


@pytest.mark.parametrize("options", [{}, {"init": "pool", "pool_size": 2}], ids=["random", "pool"])
def test_a_resumed_run_is_the_undisturbed_one(tmp_path, options):
    options = {**ADAPTIVE, **options}
    whole = quick(toy_distiller(tmp_path / "whole", **options))
    whole.train()
    assert whole.state.window["phase"] == 2
    first = quick(toy_distiller(tmp_path / "half", callbacks=[StopsAt(5)], **options))
    first.train()
    assert first.state.window["phase"] == 1
    state = json.loads((tmp_path / "half" / "checkpoint-5" / "state.json").read_text())["state"]
    assert state["window"] == first.state.window
    second = quick(toy_distiller(tmp_path / "half", **options))
    second.train(resume_from_checkpoint="latest")
    check_same(second.synthetic.state_dict(), whole.synthetic.state_dict())
    assert second.state.window == whole.state.window
    assert second.state.inner_steps == whole.state.inner_steps


def test_without_its_state_the_resumed_run_would_be_another(tmp_path):
    whole = quick(toy_distiller(tmp_path / "whole", **ADAPTIVE))
    whole.train()
    first = quick(toy_distiller(tmp_path / "half", callbacks=[StopsAt(5)], **ADAPTIVE))
    first.train()
    path = tmp_path / "half" / "checkpoint-5" / "state.json"
    saved = json.loads(path.read_text())
    del saved["state"]["window"]
    path.write_text(json.dumps(saved))
    second = quick(toy_distiller(tmp_path / "half", **ADAPTIVE))
    second.train(resume_from_checkpoint="latest")
    pixels = [each.synthetic.images().detach() for each in (whole, second)]
    assert not torch.equal(*pixels)


def test_a_step_that_is_tried_out_or_skipped_is_not_seen(tmp_path):
    distiller = toy_distiller(tmp_path, **ADAPTIVE)
    distiller._outer_step.try_out()
    assert distiller.state.window == {}
    distiller.training_step()
    seen = dict(distiller.state.window)
    with torch.no_grad():
        distiller.synthetic.log_step_sizes.fill_(float("nan"))
    distiller.training_step()
    assert distiller.state.skipped_steps == 1
    assert distiller.state.window == seen


def test_networks_that_run_as_one_are_seen_as_their_mean(tmp_path):
    options = {**ADAPTIVE, "networks_per_step": 2, "compile": "no"}
    one, other = (
        toy_distiller(tmp_path / str(batched), batch_networks=batched, **options)
        for batched in (False, True)
    )
    for distiller in (one, other):
        distiller.training_step()
    assert one.state.window["losses"] == pytest.approx(other.state.window["losses"])
