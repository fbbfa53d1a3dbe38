"""`dd_plugin.models`: networks from names, under the path that users import."""

import torch

from dd_plugin.models import load_model


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
