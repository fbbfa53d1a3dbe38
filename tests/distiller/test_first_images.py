"""`dd_plugin.distiller.first_images`: what the images show before the first outer step."""

import shutil

import pytest
import torch
from datasets import concatenate_datasets
from torch import nn

from dd_plugin.data import DataError
from dd_plugin.distiller import Distiller
from dd_plugin.evaluation import difficulty
from dd_plugin.evaluation.coresets import herding
from dd_plugin.evaluation.real_coresets import pixel_features
from tests.distiller.toy import Small, head_distiller, toy_config, toy_dataset, toy_distiller

PER_CLASS = 2


def shown(distiller):
    """The images of a set as rows of 8-bit pixels, by class."""
    pixels = (255 * distiller.synthetic.images().detach()).round().to(torch.uint8)
    return pixels.flatten(1).view(3, -1, 64)


@pytest.fixture
def no_young_networks(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("young networks are trained")

    monkeypatch.setattr(difficulty, "of_images", refuse)


def test_images_of_a_class_that_begin_as_means_differ(tmp_path):
    images = toy_distiller(tmp_path, image_init="mean", images_per_class=2).synthetic.images()
    for one, other in images.view(3, 2, *images.shape[1:]):
        assert (one - other).abs().max() > 1e-3


def test_images_chosen_by_herding(tmp_path, no_young_networks):
    distiller = toy_distiller(tmp_path, image_init="herding", images_per_class=PER_CLASS)
    train = distiller.train_data
    features = pixel_features(train)
    rows = herding(features, train.labels(), PER_CLASS)
    assert torch.equal(shown(distiller), features[rows].view(3, PER_CLASS, 64))


@pytest.mark.parametrize("options", [{}, {"augmentation": "shift", "dtype": "float32"}], ids=str)
def test_the_easiest_images_have_the_right_labels(tmp_path, options):
    rows = toy_dataset(60)
    wrong = set(range(0, 60, 4))
    labels = [(y + 1) % 3 if i in wrong else y for i, y in enumerate(rows["label"])]
    data = rows.remove_columns("label").add_column("label", labels).cast(rows.features)
    config = toy_config(tmp_path, image_init="easiest", images_per_class=PER_CLASS, **options)
    distiller = Distiller(None, config, data, toy_dataset(30, 1))
    features, found = pixel_features(distiller.train_data), shown(distiller)
    for label in range(3):
        for image in found[label]:
            (row,) = (features == image).all(1).nonzero().flatten().tolist()
            assert labels[row] == label
            assert row not in wrong
    again = Distiller(None, config, data, toy_dataset(30, 1))
    assert torch.equal(shown(again), found)


@pytest.mark.parametrize("rule", ["herding", "easiest"])
def test_smaller_images_of_a_rule_and_several_networks(tmp_path, rule):
    distiller = toy_distiller(
        tmp_path,
        image_init=rule,
        parametrization="upsampled",
        model=["timm/dd_convnet"] * 2,
        model_args=[{"width": 3, "depth": 1}, {"width": 4, "depth": 1}],
    )
    assert len(distiller.synthetic.labels) == 12
    distiller.train()
    assert distiller.state.skipped_steps == 0


def test_a_class_with_too_few_images_is_told_before_networks_are_trained(
    tmp_path, no_young_networks
):
    with pytest.raises(DataError, match="each class must have at least 21 images"):
        toy_distiller(tmp_path, image_init="easiest", images_per_class=21)


def test_the_easiest_images_are_not_one_of_them_several_times(tmp_path):
    rows = toy_dataset(12)
    twice = concatenate_datasets([rows, rows, rows.select([0, 1, 2])])
    config = toy_config(tmp_path, image_init="easiest", images_per_class=4)
    images = Distiller(None, config, twice, toy_dataset(30, 1)).synthetic.images().detach()
    assert len(images.flatten(1).unique(dim=0)) == 12
    # Where there are no others, an image comes back.
    config = toy_config(tmp_path, image_init="easiest", images_per_class=6)
    images = Distiller(None, config, twice, toy_dataset(30, 1)).synthetic.images().detach()
    assert len(images.flatten(1).unique(dim=0)) == 12


def test_networks_that_all_diverged_choose_no_images(tmp_path):
    class Wrong(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(64, 3)

        def forward(self, x):
            return self.fc(x.flatten(1)) * float("nan")

    config = toy_config(tmp_path, image_init="easiest", verify=False)
    with pytest.raises(ValueError, match=r"all of them have diverged; use `image_init=herding`"):
        Distiller(Wrong, config, toy_dataset(30), toy_dataset(30, 1))


def test_real_images_of_a_rule_are_read_in_the_batches_of_the_settings(tmp_path, monkeypatch):
    sizes = []
    logits = difficulty.logits_of

    def seen(output):
        sizes.append(len(output))
        return logits(output)

    monkeypatch.setattr(difficulty, "logits_of", seen)
    toy_distiller(tmp_path, image_init="easiest", per_device_eval_batch_size=7)
    assert max(sizes) == 7


@pytest.mark.parametrize("rule", ["real", "herding", "easiest"])
def test_images_have_the_strides_of_a_resumed_run(tmp_path, rule):
    images = toy_distiller(tmp_path, image_init=rule).synthetic.images()
    assert images.stride() == torch.empty(images.shape).stride()


def test_a_resumed_run_applies_no_rule(tmp_path, monkeypatch):
    options = {"image_init": "easiest", "save_steps": 2, "images_per_class": PER_CLASS}
    whole = toy_distiller(tmp_path / "run", **options)
    whole.train()

    def refuse(*args, **kwargs):
        raise AssertionError("young networks are trained")

    monkeypatch.setattr(difficulty, "of_images", refuse)
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    again = toy_distiller(tmp_path / "run", resume_from_checkpoint="latest", **options)
    again.train()
    assert torch.equal(again.synthetic.images(), whole.synthetic.images())


@pytest.mark.parametrize("rule", ["herding", "easiest"])
def test_heads_have_no_rule(tmp_path, rule):
    with pytest.raises(ValueError, match="`image_init` must be real, mean or noise with trainable"):
        head_distiller(tmp_path, Small(), image_init=rule)
