"""The best set of a run: kept, shipped, resumed, and never chosen on test data."""

import pytest
import torch
from datasets import DatasetDict

from dd_plugin.distiller import Distiller, DistillerCallback, DistillerConfig
from dd_plugin.hub.reading import read_set
from tests.distiller.toy import toy_dataset, toy_distiller

BEST = {"load_best_model_at_end": True, "eval_steps": 2, "max_steps": 8, "save_steps": 2}


def scripted(distiller, accuracies):
    """Evaluations that find what the test says, and the images that each was about."""
    seen = []

    def evaluate(networks=None):
        seen.append(distiller.synthetic.images().detach().clone())
        return {"accuracy_mean": accuracies[len(seen) - 1], "accuracy_std": 0.0, "networks": 1.0}

    distiller.evaluate = evaluate
    return seen


def test_the_best_evaluation_is_what_a_run_ends_with(tmp_path):
    distiller = toy_distiller(tmp_path, **BEST)
    seen = scripted(distiller, [0.3, 0.9, 0.5, 0.9])
    state = distiller.train()
    # Of equals the first, and the last step is among those that are looked at.
    assert (len(seen), state.best_metric, state.best_step) == (4, 0.9, 4)
    assert torch.equal(distiller.synthetic.images(), seen[1])
    assert not torch.equal(seen[1], seen[3])


def test_without_the_option_a_run_ends_with_its_last_images(tmp_path):
    distiller = toy_distiller(tmp_path, **{**BEST, "load_best_model_at_end": False})
    seen = scripted(distiller, [0.9, 0.3, 0.2])
    state = distiller.train()
    assert state.best_step is None
    assert not any(torch.equal(distiller.synthetic.images(), images) for images in seen)


def test_a_resumed_run_remembers_the_best(tmp_path):
    class Stop(DistillerCallback):
        def on_step_end(self, config, state, control, **kwargs):
            control.should_training_stop |= state.global_step == 6

    whole = toy_distiller(tmp_path / "whole", **BEST)
    scripted(whole, [0.3, 0.9, 0.5, 0.4])
    whole.train()
    first = toy_distiller(tmp_path / "parts", callbacks=[Stop()], **BEST)
    scripted(first, [0.3, 0.9, 0.5])
    first.train()
    second = toy_distiller(tmp_path / "parts", **BEST)
    scripted(second, [0.4])
    state = second.train(resume_from_checkpoint="latest")
    assert (state.global_step, state.best_metric, state.best_step) == (8, 0.9, 4)
    assert torch.equal(second.synthetic.images(), whole.synthetic.images())


def test_more_steps_go_on_from_the_last_images(tmp_path):
    options = {**BEST, "lr_scheduler_type": "constant"}
    whole = toy_distiller(tmp_path / "whole", **options)
    scripted(whole, [0.9, 0.1, 0.1, 0.95])
    whole.train()
    parts = toy_distiller(tmp_path / "parts", **{**options, "max_steps": 4})
    scripted(parts, [0.9, 0.1, 0.1, 0.95])
    parts.train()
    parts.config.max_steps = 8
    parts.train()
    assert torch.equal(parts.synthetic.images(), whole.synthetic.images())


def test_the_record_and_the_card_say_that_it_was_chosen(tmp_path):
    distiller = toy_distiller(tmp_path, **BEST)
    distiller.train()
    distiller.compare()
    distiller.save_model()
    step = distiller.state.best_step
    assert read_set(tmp_path).record.protocol.best_step == step
    assert f"that of outer step {step}, which did best" in (tmp_path / "README.md").read_text()


def test_choosing_on_test_data_is_refused(tmp_path):
    # By name before anything is read, and where the test split is all that there is.
    with pytest.raises(ValueError, match="chosen on the data that it is reported on"):
        DistillerConfig(load_best_model_at_end=True, eval_split="test")
    config = DistillerConfig(output_dir=str(tmp_path), load_best_model_at_end=True)
    splits = DatasetDict(train=toy_dataset(), test=toy_dataset(30, 1))
    with pytest.raises(ValueError, match="chosen on the data that it is reported on"):
        Distiller(None, config, splits)


def test_needs_evaluations():
    with pytest.raises(ValueError, match="`eval_steps` must not be 0"):
        DistillerConfig(load_best_model_at_end=True, eval_steps=0)
