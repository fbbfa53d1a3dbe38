"""`dd_plugin.models.load_model`: names of timm, local folders, and what bad names are told."""

import pytest
import torch
from torch import nn
from transformers import (
    DetrConfig,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
)

from dd_plugin.models import ModelLoadError, load_model, model_factory


@pytest.fixture
def tiny_config():
    return ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3
    )


def test_timm_name():
    model = load_model("timm/resnet10t")
    assert type(model).__name__ == "ResNet"
    assert model.training


def test_timm_name_with_a_pretrained_tag_needs_no_weights():
    assert isinstance(load_model("timm/resnet10t.c3_in1k"), nn.Module)


def test_unknown_timm_name_suggests_close_ones():
    with pytest.raises(ModelLoadError, match=r"no architecture 'resnet19'; close: .*timm/resnet18"):
        load_model("timm/resnet19")


def test_timm_name_like_no_other_says_where_the_names_are():
    with pytest.raises(ModelLoadError, match=r"timm\.list_models\(\)"):
        load_model("timm/qqqqqqqq")


def test_unknown_timm_tag_lists_the_known_ones():
    with pytest.raises(ModelLoadError, match=r"no pretrained tag 'nope' .*known: c3_in1k"):
        load_model("timm/resnet10t.nope")


def test_timm_weights_out_of_reach():
    with pytest.raises(ModelLoadError, match="timm could not make 'resnet10t'"):
        load_model("timm/resnet10t", pretrained=True)


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


def test_own_network_by_name():
    model = load_model(
        "timm/dd_convnet",
        num_classes=5,
        in_chans=1,
        img_size=(8, 8),
        width=4,
        depth=2,
        norm_layer="batchnorm2d",
    )
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 5)


def test_convolutional_network_takes_any_size_of_images():
    model = load_model("timm/resnet10t", num_classes=7, in_chans=1, img_size=24)
    assert model(torch.rand(2, 1, 24, 24)).shape == (2, 7)


def test_transformer_is_made_for_the_size_of_images():
    model = load_model(
        "timm/vit_tiny_patch16_224", num_classes=3, img_size=32, depth=1, embed_dim=12
    )
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 3)


def test_unknown_argument_of_a_timm_model():
    with pytest.raises(ModelLoadError, match="'resnet10t' takes no argument 'wdith'"):
        load_model("timm/resnet10t", wdith=3)


def test_value_that_a_timm_model_refuses():
    with pytest.raises(ModelLoadError, match="could not make 'dd_convnet': `img_size` 4x4 is too"):
        load_model("timm/dd_convnet", img_size=4)


def test_what_is_none_is_left_out():
    assert load_model("timm/dd_convnet", img_size=None, num_classes=None).num_classes == 10


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


def test_factory_makes_models_that_share_nothing(tmp_path, tiny_config):
    tiny_config.save_pretrained(tmp_path)
    make = model_factory(str(tmp_path), num_classes=2)
    first, second = make(), make()
    assert first.training
    assert first.config is not second.config
    assert not {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
