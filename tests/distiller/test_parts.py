"""From a configuration to the parts of a run: data, transform, network, images to begin with."""

import json

import numpy as np
import pytest
from datasets import DatasetDict, Value
from PIL import Image
from torch import nn
from transformers import (
    AutoImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessor,
)

from dd_plugin import DistilledDataset
from dd_plugin.data import DataError
from dd_plugin.distiller import Distiller
from dd_plugin.distiller.published_names import is_path
from tests.distiller.toy import toy_config, toy_dataset, toy_distiller


def test_images_of_a_class_that_begin_as_means_differ(tmp_path):
    images = toy_distiller(tmp_path, image_init="mean", images_per_class=2).synthetic.images()
    for one, other in images.view(3, 2, *images.shape[1:]):
        assert (one - other).abs().max() > 1e-3


def test_the_normalization_of_a_model_of_the_hub_is_fetched(tmp_path, monkeypatch):
    config = ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4], depths=[1], num_labels=3
    )

    def make_network():
        network = ResNetForImageClassification(config)
        network.config._name_or_path = "someone/net"
        return network

    processor = ViTImageProcessor(image_mean=[0.125], image_std=[0.375])
    monkeypatch.setattr(
        AutoImageProcessor,
        "from_pretrained",
        lambda name, local_files_only, **options: None if local_files_only else processor,
    )
    transform = toy_distiller(tmp_path, model_init=make_network).transform
    assert (transform.mean, transform.std) == ([0.125], [0.375])


def test_bad_input_is_told_before_any_work(tmp_path):
    data = toy_dataset()
    cases = [
        (data.remove_columns("label"), {}, "label"),
        (data, {"images_per_class": 50}, "left"),
        (data, {"image_size": 2}, "2"),
        (data, {"model": "timm/no_such_net", "model_args": None}, "no architecture 'no_such_net'"),
    ]
    for dataset, options, message in cases:
        with pytest.raises((ValueError, TypeError), match=message):
            Distiller(None, toy_config(tmp_path, **options), dataset).train()
    wrong_head = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
    with pytest.raises(ValueError, match="7"):
        Distiller(wrong_head, toy_config(tmp_path), data)
    with pytest.raises(ValueError, match="no evaluation data"):
        Distiller(None, toy_config(tmp_path / "e"), data).evaluate()


def test_a_name_is_the_network_of_the_recipe(tmp_path):
    config = toy_config(tmp_path, max_steps=1, model_args=None)
    distiller = Distiller("timm/test_resnet", config, toy_dataset(), toy_dataset(30, 1))
    assert distiller.synthetic.recipe.model == "timm/test_resnet"
    assert distiller.config.models == ("timm/test_resnet",)


def test_what_could_not_be_read_back_is_told_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="could load other files or code"):
        toy_distiller(tmp_path, model="timm/test_resnet", model_args={"pretrained_cfg": None})


def test_images_are_not_tested_on_what_they_were_learned_from(tmp_path):
    splits = DatasetDict(train=toy_dataset(), validation=toy_dataset(30, 1))
    config = toy_config(tmp_path, train_split="validation", eval_split="validation")
    with pytest.raises(ValueError, match="`eval_split` must not be the split that is distilled"):
        Distiller(None, config, splits)
    # Found by itself, it is another one, or none.
    distiller = Distiller(None, toy_config(tmp_path, train_split="validation"), splits)
    assert distiller.eval_data is None
    config = toy_config(tmp_path, eval_split="train")
    assert Distiller(None, config, toy_dataset(), splits).eval_split == "train"


def test_a_damaged_validation_split_is_not_passed_over(tmp_path):
    damaged = toy_dataset(30, 1).cast_column("label", Value("int64"))
    damaged = damaged.map(lambda row: {"label": -1})
    splits = DatasetDict(train=toy_dataset(), validation=damaged, test=toy_dataset(30, 2))
    with pytest.raises(DataError):
        Distiller(None, toy_config(tmp_path), splits, splits)
    splits.pop("validation")
    assert Distiller(None, toy_config(tmp_path), splits, splits).eval_split == "test"


def test_a_single_split_from_disk_is_what_is_distilled(tmp_path):
    toy_dataset().save_to_disk(tmp_path / "one")
    named = toy_config(tmp_path / "out", dataset=str(tmp_path / "one"))
    distiller = Distiller(config=named)
    assert (distiller.train_split, distiller.eval_split) == ("train", None)
    with pytest.raises(ValueError, match="there is no evaluation data"):
        distiller.evaluate()
    # What is to be tested on has to be said of it, as of other data with `train` only.
    with pytest.raises(DataError, match="there is no split 'test'"):
        Distiller(None, named, toy_dataset(), str(tmp_path / "one"))
    with pytest.raises(DataError, match="there is no split 'dev'"):
        Distiller(config=toy_config(tmp_path / "out", dataset=named.dataset, eval_split="dev"))
    tested = toy_config(tmp_path / "out", eval_split="train")
    for place in (tmp_path / "one", str(tmp_path / "one")):
        assert Distiller(None, tested, toy_dataset(), place).eval_split == "train"


def test_test_images_are_scaled_as_the_training_images_were(tmp_path):
    random = np.random.default_rng(0)
    for split, high in (("train", 4095), ("validation", 1000)):
        for number in range(12):
            path = tmp_path / "data" / split / "ab"[number % 2] / f"{number}.tiff"
            path.parent.mkdir(parents=True, exist_ok=True)
            values = random.integers(0, high + 1, (8, 8)).astype(np.uint16)
            Image.fromarray(values).save(path)
    config = toy_config(tmp_path / "run", max_steps=1, dataset=str(tmp_path / "data"))
    distiller = Distiller(None, config)
    assert distiller.train_data.white_level == distiller.eval_data.white_level == 4095
    assert next(distiller.eval_data.batches(12))[0].max() < 0.25
    distiller.train()
    distiller.save_model()
    record = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert record["source"]["white_level"] == 4095
    distilled = DistilledDataset.from_pretrained(tmp_path / "run")
    assert distilled.real_data(tmp_path / "data", "validation").white_level == 4095


def test_arguments_of_a_network_that_are_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pth").write_text("")
    (tmp_path / "relu").write_text("")
    for value in (
        "/somewhere/weights.pth", "~/weights.pth", "./x", "weights.pth", tmp_path,
        {"overlay": {"file": str(tmp_path / "weights.pth")}}, {"files": ["weights.pth"]},
    ):  # fmt: skip
        assert is_path({"argument": value})
    for value in ("relu", "other.pth", "", None, 4, 0.5, ["batchnorm2d"], {"norm": {"eps": 1e-5}}):
        assert not is_path({"argument": value})
    assert is_path("relu", bare=True)
