"""Models that cannot be backbones are refused when they are loaded, with what to do."""

import pytest
import torch
from torch import nn

from dd_plugin.data import Normalization
from dd_plugin.models import ModelLoadError
from dd_plugin.networks.backbones import load_backbone
from dd_plugin.networks.errors import BackboneError
from tests.networks.models import timm_model

HALF = Normalization([0.5] * 3, [0.5] * 3)


class Network(nn.Module):
    """A linear layer on mean colors, and what a test makes of its output."""

    def __init__(self, end):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.linear = nn.Linear(6, 4)
        self.end = end

    def forward(self, images):
        maps = self.stem(images)
        return self.end(self.linear(maps.mean((2, 3))), maps)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (lambda logits, maps: logits.softmax(1), "must end in one linear layer"),
        (lambda logits, maps: logits + maps.mean((1, 2, 3))[:, None], "must end in one linear"),
        (lambda logits, maps: maps, "must end in one linear layer"),
        (lambda logits, maps: (logits, maps), "features of several kinds"),
        (lambda logits, maps: {"a": logits}, "features of several kinds"),
        (lambda logits, maps: logits * float("nan"), "must end in one linear layer"),
    ],
)
def test_a_module_whose_logits_are_not_one_linear_layers(end, message):
    with pytest.raises(BackboneError, match=message) as raised:
        load_backbone(Network(end), normalization=HALF)
    assert "give `feature_layer`" in str(raised.value)
    # And what the message says works.
    backbone = load_backbone(Network(end), feature_layer="stem", normalization=HALF)
    assert backbone.num_features == 6


def test_a_layer_that_does_more_after_the_linear_one_is_noticed():
    class Scaled(Network):
        def forward(self, images):
            return self.linear(self.stem(images).mean((2, 3))).mul_(2)

    with pytest.raises(BackboneError, match="is not the logits of one linear layer"):
        load_backbone(Scaled(None), normalization=HALF)


def test_random_features_are_refused():
    class Noisy(Network):
        def forward(self, images):
            return self.linear(self.stem(images).mean((2, 3)) + torch.randn(6))

    with pytest.raises(BackboneError, match="`feature_layer`"):
        load_backbone(Noisy(None), normalization=HALF)
    with pytest.raises(BackboneError, match="same features twice"):
        load_backbone(Noisy(None), feature_layer="linear", normalization=HALF)


def test_undefined_weights_are_refused():
    module = timm_model("vit")
    with torch.no_grad():
        module.norm.weight[0] = float("nan")
    with pytest.raises(BackboneError, match=r"finite|cannot be replaced"):
        load_backbone(module)


def test_a_wrong_layer_name_lists_close_ones():
    with pytest.raises(BackboneError, match=r"got 'layer5'; try .*'layer4'"):
        load_backbone(timm_model("cnn"), feature_layer="layer5")


def test_a_model_that_is_only_a_linear_layer_or_has_no_weights():
    with pytest.raises(BackboneError, match="must have parameters, and has none"):
        load_backbone(nn.Flatten(), normalization=HALF)
    with pytest.raises(BackboneError, match="has no weights"):
        load_backbone(nn.Linear(2, 2, device="meta"), normalization=HALF)


def test_a_module_that_cannot_be_copied():
    module = timm_model("cnn")
    module.kept = torch.ones(1, requires_grad=True) * 2
    with pytest.raises(BackboneError, match="the ResNet must be copyable"):
        load_backbone(module)


def test_images_smaller_than_a_patch():
    with pytest.raises(BackboneError, match="`image_size` 8x8"):
        load_backbone(timm_model("vit"), image_size=8)
    with pytest.raises((BackboneError, ModelLoadError), match="8"):
        load_backbone("timm/vit_tiny_patch16_224", pretrained=False, image_size=8)


def test_a_model_of_gray_images():
    with pytest.raises(BackboneError, match="does not take color images"):
        load_backbone(timm_model("cnn", in_chans=1))


def test_a_model_without_pooling():
    with pytest.raises(BackboneError, match="one vector per image"):
        load_backbone(timm_model("cnn", num_classes=0, global_pool=""))


@pytest.mark.parametrize("size", [0, -3, (1, 2, 3), 2.5, "large", (32, "x")])
def test_a_size_that_is_none(size):
    with pytest.raises(BackboneError, match="`image_size` must be a positive whole number"):
        load_backbone(timm_model("cnn"), image_size=size)


def test_what_is_no_model():
    with pytest.raises(BackboneError, match=r"`model` must be a name or a torch\.nn\.Module, got"):
        load_backbone(3)
    with pytest.raises(ModelLoadError, match="timm has no architecture 'resnet19'"):
        load_backbone("timm/resnet19")
    with pytest.raises(ModelLoadError, match="the cache does not have the files"):
        load_backbone("nobody/nothing")
    with pytest.raises(BackboneError, match="`dtype` must be"):
        load_backbone(timm_model("cnn"), dtype=torch.int8)


def test_revisions_are_for_models_on_the_hub():
    with pytest.raises(BackboneError, match="`revision` must be None for 'timm/resnet10t'"):
        load_backbone("timm/resnet10t", pretrained=False, revision="main")
    with pytest.raises(BackboneError, match="`revision` must be None for a module"):
        load_backbone(timm_model("cnn"), revision="main")


def test_weights_that_cannot_be_fetched():
    with pytest.raises(ModelLoadError, match="timm could not make 'resnet10t"):
        load_backbone("timm/resnet10t.c3_in1k")
