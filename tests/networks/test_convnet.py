"""`dd_plugin.networks.convnet`: the benchmark networks, as models of timm."""

import pytest
import timm
import torch

import dd_plugin.networks.convnet  # noqa: F401 - registers the networks
from dd_plugin.bn import convert_bn, converted_layers


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_parameters_of_the_convnet_are_those_of_the_field():
    # Convolutions 3*9*128 + 128 and twice 128*9*128 + 128, three norms of 2*128, and a linear layer
    # of 128*4*4*10 + 10.
    assert count(timm.create_model("dd_convnet")) == 3584 + 2 * 147584 + 3 * 256 + 20490 == 320010


def test_grayscale_images_of_28_pixels_are_padded_to_32():
    model = timm.create_model("dd_convnet", in_chans=1, img_size=28)
    # One channel in instead of three; 4x4 features as for 32x32.
    assert count(model) == 320010 - 2 * 9 * 128
    assert model.forward_features(torch.rand(2, 1, 28, 28)).shape == (2, 128, 4, 4)
    plain = timm.create_model("dd_convnet", in_chans=1, img_size=28, stem_padding=1)
    assert plain.forward_features(torch.rand(2, 1, 28, 28)).shape == (2, 128, 3, 3)


@pytest.mark.parametrize("size", [28, 32])
def test_parameters_of_lenet(size):
    # 6*25 + 6, 16*6*25 + 16, 400*120 + 120, 120*84 + 84, 84*10 + 10
    model = timm.create_model("dd_lenet", in_chans=1, img_size=size)
    assert count(model) == 156 + 2416 + 48120 + 10164 + 850 == 61706
    assert model(torch.rand(2, 1, size, size)).shape == (2, 10)


@pytest.mark.parametrize("size", [(17, 23), (9, 64), 8])
def test_any_size_and_channels(size):
    model = timm.create_model("dd_convnet", width=4, in_chans=2, img_size=size, num_classes=3)
    height, width = (size, size) if isinstance(size, int) else size
    x = torch.rand(2, 2, height, width)
    features = model.forward_features(x)
    assert features.shape == (2, 4, height // 8, width // 8)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
    assert model(x).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("dd_convnet", {"img_size": 7}, "7x7 is too small for 3 blocks .* after block 3"),
        ("dd_convnet", {"img_size": (32, 3)}, "32x3 is too small .* after block 2"),
        ("dd_lenet", {"img_size": 13}, "13x13 is too small"),
        ("dd_convnet", {"norm_layer": "batchnrom"}, "`norm_layer` must be .* got 'batchnrom'"),
        ("dd_convnet", {"norm_layer": "groupnorm", "width": 6}, "multiple of 4, got 6"),
        ("dd_convnet", {"depth": 0}, "at least 1"),
        ("dd_convnet", {"num_classes": -1}, "must not be negative"),
        ("dd_convnet", {"init": "kaiming"}, "`init` must be"),
        ("dd_convnet", {"global_pool": "max"}, "`global_pool` must be"),
    ],
)
def test_what_cannot_be_is_an_error(name, arguments, text):
    with pytest.raises(ValueError, match=text):
        timm.create_model(name, **arguments)


def test_images_of_another_size_than_said():
    model = timm.create_model("dd_convnet", width=4)
    with pytest.raises(ValueError, match="images must be 32x32"):
        model(torch.rand(2, 3, 40, 32))
    pooled = timm.create_model("dd_convnet", width=4, global_pool="avg")
    assert pooled(torch.rand(2, 3, 40, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", ["dd_convnet", "dd_lenet"])
def test_classifier_can_be_replaced(name):
    model = timm.create_model(name, num_classes=4).double()
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    before = model.forward_head(model.forward_features(x), pre_logits=True)
    assert model.get_classifier().out_features == 4
    model.reset_classifier(6)
    assert model(x).shape == (2, 6)
    model.reset_classifier(0)
    assert torch.equal(model(x), before)
    assert model.num_classes == 0


@pytest.mark.parametrize("name", ["dd_convnet", "dd_lenet"])
def test_feature_extraction(name):
    model = timm.create_model(name, features_only=True)
    maps = model(torch.rand(2, 3, 32, 32))
    assert [m.shape[1] for m in maps] == model.feature_info.channels()
    assert model.feature_info.reduction() == [2, 4, 8][: len(maps)]


def test_data_configuration_says_what_the_network_was_made_for():
    model = timm.create_model("dd_convnet", in_chans=1, img_size=(20, 24), width=4, num_classes=3)
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == (1, 20, 24)
    assert config["mean"] == config["std"] == (0.5,)
    assert model.default_cfg["num_classes"] == 3
    # The registry's own entry is untouched.
    assert timm.get_pretrained_cfg("dd_convnet").input_size == (3, 32, 32)


def test_there_are_no_pretrained_weights():
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        timm.create_model("dd_convnet", pretrained=True)


@pytest.mark.parametrize("name", ["dd_convnet", "dd_lenet"])
@pytest.mark.parametrize("init", ["default", "xavier"])
@pytest.mark.parametrize("redraw", ["reset_parameters", "init_weights"])
def test_redrawing_in_place_is_making_anew(name, init, redraw):
    torch.manual_seed(3)
    fresh = timm.create_model(name, init=init, norm_layer="batchnorm2d")
    used = timm.create_model(name, init=init, norm_layer="batchnorm2d")
    used(torch.rand(4, 3, 32, 32))
    torch.manual_seed(3)
    getattr(used, redraw)()
    for key, value in fresh.state_dict().items():
        assert torch.equal(value, used.state_dict()[key]), key


def test_xavier_has_the_variance_of_glorot_and_bengio():
    weight = timm.create_model("dd_lenet", init="xavier").fc1.weight
    # Normal with variance 2 / (400 + 120), over 48,000 values: standard error of the standard
    # deviation 0.3 %.
    assert weight.std().item() == pytest.approx((2 / 520) ** 0.5, rel=0.015)
    assert not timm.create_model("dd_convnet", init="xavier").head.bias.any()


def test_batch_norm_can_be_converted():
    model = timm.create_model("dd_convnet", width=4, norm_layer="batchnorm2d")
    assert len(converted_layers(convert_bn(model, statistics="tracked"))) == 3
