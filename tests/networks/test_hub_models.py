"""Models of transformers by name: local folders, their configurations, and what is no model."""

import os

import pytest
import torch
from transformers import (
    DetrConfig,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
)

from dd_plugin.networks.errors import ModelLoadError
from dd_plugin.networks.names import load_model


@pytest.fixture
def tiny_config():
    return ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3
    )


def test_folder_with_configuration_alone(tmp_path, tiny_config):
    tiny_config.save_pretrained(tmp_path)
    model = load_model(str(tmp_path))
    assert isinstance(model, ResNetForImageClassification)
    assert model.training


def test_folder_with_weights(tmp_path, tiny_config):
    saved = ResNetForImageClassification(tiny_config)
    with torch.no_grad():
        saved.get_parameter("classifier.1.bias").fill_(0.5)
    saved.save_pretrained(tmp_path)
    bias = load_model(str(tmp_path), pretrained=True).get_parameter("classifier.1.bias")
    assert torch.equal(bias, torch.full((3,), 0.5))
    # Without `pretrained` the weights are random: a fresh classifier's bias is not the saved one.
    fresh = load_model(str(tmp_path)).get_parameter("classifier.1.bias")
    assert not torch.equal(fresh, bias)


def test_type_without_an_image_classifier_gives_the_bare_model(tmp_path, tiny_config):
    config = DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=tiny_config.__class__(
            **{**tiny_config.to_dict(), "out_features": ["stage2"]}
        ),
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=1,
        decoder_attention_heads=1,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
    )
    config.save_pretrained(tmp_path)
    assert type(load_model(str(tmp_path))).__name__ == "DetrModel"


def test_folder_without_configuration(tmp_path):
    with pytest.raises(ModelLoadError, match=r"has no config\.json"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("text", ["{", "{}", '{"model_type": "no-such-type"}'])
def test_folder_with_a_useless_configuration(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelLoadError, match="holds no usable model configuration"):
        load_model(str(tmp_path))


def test_hub_out_of_reach():
    with pytest.raises(ModelLoadError, match=r"no model 'someone/something'.*write timm/NAME"):
        load_model("someone/something")


def test_configuration_is_set_for_classes_and_images(tmp_path, tiny_config):
    tiny_config.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), num_classes=7, in_chans=1, img_size=(16, 16))
    assert model(torch.rand(2, 1, 16, 16)).logits.shape == (2, 7)


def test_weights_stay_where_the_number_of_classes_changes(tmp_path, tiny_config):
    saved = ResNetForImageClassification(tiny_config)
    saved.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), pretrained=True, num_classes=7)
    name = "resnet.embedder.embedder.convolution.weight"
    assert torch.equal(model.get_parameter(name), saved.get_parameter(name))
    assert model.get_parameter("classifier.1.bias").shape == (7,)


def test_configuration_gets_the_size_of_images(tmp_path):
    ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        image_size=224,
        patch_size=4,
    ).save_pretrained(tmp_path)
    model = load_model(str(tmp_path), num_classes=2, img_size=8)
    assert model(torch.rand(1, 3, 8, 8)).logits.shape == (1, 2)


def test_other_fields_of_a_configuration(tmp_path, tiny_config):
    tiny_config.save_pretrained(tmp_path)
    assert load_model(str(tmp_path), hidden_act="gelu").config.hidden_act == "gelu"
    with pytest.raises(ModelLoadError, match="no field 'hiden_act'; close: hidden_act"):
        load_model(str(tmp_path), hiden_act="gelu")


@pytest.mark.parametrize("kind", ["file", "long", "zero", "pipe"])
def test_what_is_no_name_at_all(tmp_path, kind):
    if kind == "pipe" and not hasattr(os, "mkfifo"):
        pytest.skip("there are no pipes in the file system")
    path = tmp_path / "model"
    if kind == "file":
        path.write_text("{}")
    if kind == "pipe":
        os.mkfifo(path)
    name = {"long": "x" * 70_000, "zero": "a\0b"}.get(kind, str(path))
    expected = {"file": "is a file", "pipe": "is a file", "long": "at most 200 characters"}
    with pytest.raises(ModelLoadError, match=expected.get(kind, "no model")) as caught:
        load_model(name)
    assert len(str(caught.value)) < 400


def test_an_architecture_of_transformers_is_made_without_files():
    model = load_model(
        "transformers/resnet",
        num_classes=4,
        in_chans=1,
        embedding_size=4,
        hidden_sizes=[4, 8],
        depths=[1, 1],
    )
    assert type(model).__name__ == "ResNetForImageClassification"
    # What follows from the fields was made from them.
    assert model.config.stage_names == ["stem", "stage1", "stage2"]
    assert (model.config.num_labels, model.config.num_channels) == (4, 1)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("transformers/resnett", {}, "no model type 'resnett'; close: .*resnet"),
        ("transformers/resnet", {"depth": [1]}, "no field 'depth'; close: .*depths"),
        ("transformers/resnet", {"pretrained": True}, "an architecture without weights"),
        ("transformers/resnet", {"layer_type": "odd"}, "odd"),
        ("transformers/bert", {}, "'bert' of transformers is no image classifier"),
        ("transformers/timm_wrapper", {}, "'timm_wrapper' of transformers is no image classifier"),
    ],
)
def test_an_architecture_that_there_is_not(name, arguments, message):
    with pytest.raises(ModelLoadError, match=message):
        load_model(name, **arguments)
