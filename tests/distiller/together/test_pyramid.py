"""Runs whose images are a pyramid, with several augmented copies: modes, files, resuming."""

import json
import warnings

import pytest
import torch

from dd_plugin import DistilledDataset
from dd_plugin.cli import main
from dd_plugin.data.parametrization import Pyramid
from tests.distiller.colored import colored_dataset, colored_distiller
from tests.distiller.toy import SHALLOW
from tests.evaluation.short import shorten


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"color_space": "rgb", "augmentations_per_step": 3},
        {"pyramid_levels": 3, "soft_labels": True},
        {"batching": "groups", "groups": 2, "images_per_class": 2},
        {"batching": "minibatches", "batch_size": 3, "images_per_class": 2, "soft_labels": True},
        {"init": "pool", "window": "last", "window_length": 2, "pool_size": 2},
        {"image_init": "noise", "normalization": "zca"},
        {"mixed_precision": "bf16", "dtype": "float32"},
        {"compile": "trace", "model_args": SHALLOW},
        {"method": "autograd"},
    ],
    ids=str,
)
def test_every_mode_moves_all_levels_and_is_reproducible(tmp_path, options):
    finals = []
    for name in "ab":
        distiller = colored_distiller(tmp_path / name, max_steps=2, **options)
        start = [level.detach().clone() for level in distiller.synthetic.parametrization.levels]
        distiller.train()
        assert distiller.state.skipped_steps == 0
        levels = distiller.synthetic.parametrization.levels
        assert len(levels) == options.get("pyramid_levels", 2)
        assert not any(torch.equal(a, b) for a, b in zip(start, levels, strict=True))
        finals.append({k: t.clone() for k, t in distiller.synthetic.state_dict().items()})
    assert all(torch.equal(finals[0][k], finals[1][k]) for k in finals[0])


@pytest.mark.parametrize("method", ["mixed", "reverse"])
def test_the_gradient_of_all_levels_is_that_of_the_whole_graph(tmp_path, method):
    found = {}
    for how in (method, "autograd"):
        distiller = colored_distiller(tmp_path / how, init="fixed", method=how)
        leaves = list(distiller.synthetic.parametrization.levels)
        found[how] = distiller._outer_step.gradient(0, 0, leaves)
    torch.testing.assert_close(found[method].leaves, found["autograd"].leaves)
    assert all(float(gradient.abs().max()) > 0 for gradient in found[method].leaves)


def test_what_is_saved_gives_the_same_images_to_the_bit(tmp_path):
    distiller = colored_distiller(tmp_path, eval_networks=2)
    distiller.train()
    distiller.compare()
    distiller.save_model()
    distilled = DistilledDataset.from_pretrained(tmp_path)
    assert torch.equal(distilled.images, distiller.synthetic.images().detach())
    assert distilled.recipe == distiller.synthetic.recipe
    assert distilled.recipe.augmentations_per_step == 2
    images, labels = distilled._synthetic.batch(1, 5)
    expected = distiller.synthetic.batch(1, 5)
    assert torch.equal(images, expected[0])
    assert torch.equal(labels, expected[1])
    assert len(labels) == 6
    # Copies are part of the training that the card's accuracies are of.
    scores = distilled.evaluate(dataset=colored_dataset(30, seed=1), networks=2)
    assert scores == distiller.results["distilled"]
    card = (tmp_path / "README.md").read_text()
    assert "2 copies of each image in a step" in card
    assert "a sum of levels of rising resolution, in decorrelated colors" in card


def test_a_set_with_one_copy_has_a_record_that_version_0_1_0_reads(tmp_path):
    distiller = colored_distiller(tmp_path, augmentations_per_step=1, augmentation="", max_steps=1)
    distiller.train()
    distiller.save_model()
    record = json.loads((tmp_path / "recipe.json").read_text())
    # The fields of its `Recipe`; it refuses others.
    assert set(record["recipe"]) == {
        *("shape", "class_names", "steps", "batching", "groups", "batch_size", "optimizer"),
        *("optimizer_args", "step_size_parameters", "augmentation", "init", "statistics"),
        *("train_with", "model", "model_args", "loss", "mixed_precision"),
    }


def test_a_resumed_run_is_the_undisturbed_one_to_the_bit(tmp_path):
    whole = colored_distiller(tmp_path / "a", max_steps=8)
    whole.train()
    first = colored_distiller(tmp_path / "b", max_steps=8, save_steps=5)
    first.train()
    (tmp_path / "b" / "checkpoint-8").rename(tmp_path / "gone")
    second = colored_distiller(tmp_path / "b", max_steps=8, save_steps=5)
    second.train(resume_from_checkpoint="latest")
    for name, t in whole.synthetic.state_dict().items():
        assert torch.equal(t, second.synthetic.state_dict()[name]), name
    assert torch.equal(whole.synthetic.images(), second.synthetic.images())


def test_too_many_levels_are_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match=r"`pyramid_levels` must be from 1 to 4 for images of 8 x"):
        colored_distiller(tmp_path, pyramid_levels=5)


def test_the_digits_with_a_pyramid_and_two_copies_from_the_command_line(
    tmp_path, capsys, monkeypatch
):
    shorten(monkeypatch)
    pytest.importorskip("sklearn", reason="the digits come with the extra demo")
    words = [
        *("--parametrization=pyramid", "--pyramid-levels=3", "--augmentation=resizedcrop+noise"),
        *("--augmentations-per-step=2", "--max_steps=2", "--inner_steps=5", "--eval_steps=0"),
        *("--final_eval_networks=1", "--disable_tqdm", f"--output_dir={tmp_path}"),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["distill", *words]) == 0
    assert "distilled images" in capsys.readouterr().out
    distilled = DistilledDataset.from_pretrained(tmp_path)
    assert distilled.recipe.augmentations_per_step == 2
    assert len(distilled.images) == 10
    assert not isinstance(distilled._synthetic.parametrization, Pyramid)
    assert main(["evaluate", str(tmp_path), "--networks=1", "--no-full-data"]) == 0
