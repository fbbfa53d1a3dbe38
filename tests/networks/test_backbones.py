"""Backbones are loaded alike each time, and one that is there already is taken as it is."""

import copy

import pytest
import torch

from dd_plugin.data import Normalization
from dd_plugin.networks.backbones import Backbone, load_backbone
from dd_plugin.networks.errors import BackboneError
from tests.networks.models import HALF, ConvolutionalHead, images, tiny


def test_backbones_can_be_copied_and_made_again_in_equal():
    module = tiny()
    backbone, again = load_backbone(module), load_backbone(module)
    assert isinstance(copy.deepcopy(backbone), Backbone)
    assert again.fingerprint == backbone.fingerprint
    pixels = images((64, 64))
    assert torch.equal(copy.deepcopy(backbone)(pixels), again(pixels))


def test_a_backbone_is_taken_as_it_is():
    module = ConvolutionalHead().eval()
    made = load_backbone(module, feature_layer="body.0", normalization=HALF)
    again = load_backbone(made, dtype=torch.float64)
    assert again.feature_layer == made.feature_layer == "body.0"
    assert again.normalization is HALF
    assert again.fingerprint == made.fingerprint
    pixels = images(made.size)
    torch.testing.assert_close(again(pixels.double()).float(), made(pixels))
    assert next(made.parameters()).dtype == torch.float32
    own = Normalization([0.1, 0.2, 0.3], [1, 1, 1])
    assert load_backbone(made, normalization=own).normalization is own
    assert load_backbone(made, feature_layer="body.0").fingerprint == made.fingerprint
    for change in ({"feature_layer": "body.1"}, {"image_size": 5}, {"revision": "main"}):
        with pytest.raises(BackboneError, match="must be left out for a `Backbone`"):
            load_backbone(made, **change)
