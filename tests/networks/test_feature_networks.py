"""Features of a named layer: what it returns, averaged over positions, or an error."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dd_plugin.networks.backbones import load_backbone
from dd_plugin.networks.errors import BackboneError
from dd_plugin.networks.feature_networks import FeatureClassifier
from tests.networks.models import HALF, check_head, images, lively, timm_model


class Two(nn.Module):
    """A user's network with something behind the layer that is asked for."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.hidden = nn.Linear(6, 9)
        self.last = nn.Linear(9, 4)

    def forward(self, images):
        return self.last(F.relu(self.hidden(self.pool(self.stem(images)))))


@pytest.mark.parametrize(
    ("layer", "width", "ordinary"),
    [(None, 9, True), ("hidden", 9, False), ("pool", 6, False), ("stem", 6, False)],
)
def test_a_named_layer_gives_what_it_returns(layer, width, ordinary):
    module = lively(Two())
    backbone = load_backbone(module, feature_layer=layer, normalization=HALF)
    assert backbone.num_features == width
    batch = backbone.network_input(images(backbone.size))
    with torch.no_grad():
        maps = module.stem(batch)
        expected = {
            "stem": maps.mean((2, 3)),
            "pool": module.pool(maps),
            "hidden": module.hidden(module.pool(maps)),
            None: F.relu(module.hidden(module.pool(maps))),
        }[layer]
    assert torch.allclose(backbone(images(backbone.size)), expected, atol=1e-6)
    head = check_head(backbone)
    assert isinstance(head, Two if ordinary else FeatureClassifier)


def test_a_layer_of_tokens_is_refused():
    with pytest.raises(BackboneError, match=r"must return one tensor \(N, d\) or \(N, d, H, W\)"):
        load_backbone(timm_model("vit"), feature_layer="blocks")


def test_a_layer_that_is_used_twice_is_refused():
    class Twice(Two):
        def forward(self, images):
            return self.last(self.hidden(self.pool(self.stem(images) + self.stem(-images))))

    with pytest.raises(BackboneError, match="must be used once per forward pass, got 2 uses"):
        load_backbone(Twice(), feature_layer="stem", normalization=HALF)
