"""`dd_plugin.distiller.network_parts`: the recipe of whole networks, and their normalization."""

import pytest
from transformers import (
    AutoImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessor,
)

from dd_plugin.distiller import Distiller
from tests.distiller.toy import toy_config, toy_dataset, toy_distiller


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


def test_a_name_is_the_network_of_the_recipe(tmp_path):
    config = toy_config(tmp_path, max_steps=1, model_args=None)
    distiller = Distiller("timm/test_resnet", config, toy_dataset(), toy_dataset(30, 1))
    assert distiller.synthetic.recipe.model == "timm/test_resnet"
    assert distiller.config.models == ("timm/test_resnet",)


def test_what_could_not_be_read_back_is_told_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="could load other files or code"):
        toy_distiller(tmp_path, model="timm/test_resnet", model_args={"pretrained_cfg": None})
