"""Models of timm by their names: what is passed to timm, and what its refusals become."""

import pytest
import torch
from torch import nn

from dd_plugin.networks.errors import ModelLoadError
from dd_plugin.networks.names import load_model


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


@pytest.mark.parametrize("name", ["timm/" + "x" * 100_000, "timm/" + "resnet18." * 30_000])
def test_a_long_name_of_timm(name):
    with pytest.raises(ModelLoadError, match="timm has no architecture") as caught:
        load_model(name)
    assert len(str(caught.value)) < 400


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
