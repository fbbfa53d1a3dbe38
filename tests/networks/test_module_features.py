"""What a module says of itself: the sizes that it takes and how its images are normalized."""

import pytest
import torch
import torch.nn.functional as F

from dd_plugin.data import Normalization
from dd_plugin.networks.backbones import load_backbone
from dd_plugin.networks.errors import BackboneWarning
from tests.networks.models import (
    ConvolutionalHead,
    images,
    timm_model,
    tiny,
)


def test_convolutional_networks_take_any_size_and_fixed_grids_their_own():
    convolutional = load_backbone(tiny())
    assert convolutional.input_size(48, 80) == (48, 80)
    grid = load_backbone(timm_model("vit"))
    assert grid.size == (32, 32)
    assert grid.input_size(48, 80) == (32, 32)
    pixels = images((48, 80))
    resized = F.interpolate(pixels, (32, 32), mode="bilinear", antialias=True)
    assert torch.allclose(grid(pixels), grid(resized), atol=1e-6)


def test_normalization_is_the_models_own():
    model = tiny()
    assert load_backbone(model).normalization.mean == list(model.pretrained_cfg["mean"])
    with pytest.warns(BackboneWarning, match=r"0.5 are assumed.*pass `load_backbone\(module, norm"):
        backbone = load_backbone(ConvolutionalHead())
    assert backbone.normalization.mean == [0.5] * 3
    own = Normalization([0.1, 0.2, 0.3], [1, 1, 1])
    assert load_backbone(ConvolutionalHead(), normalization=own).normalization.mean == own.mean
