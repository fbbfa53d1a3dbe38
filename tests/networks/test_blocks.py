"""`dd_plugin.networks.blocks`: the norms of the benchmark networks."""

import pytest
import timm
import torch
from torch import nn

import dd_plugin.networks.convnet  # noqa: F401 - registers the networks


@pytest.mark.parametrize("name", ["dd_convnet", "dd_lenet"])
@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        ("batchnorm2d", nn.BatchNorm2d),
        ("instancenorm2d", nn.GroupNorm),
        ("none", nn.Identity),
        (nn.BatchNorm2d, nn.BatchNorm2d),
    ],
)
def test_norm_layers(name, norm, kind):
    model = timm.create_model(name, norm_layer=norm)
    assert {type(block.norm) for block in model.blocks} == {kind}


def test_group_norm_has_four_groups():
    model = timm.create_model("dd_convnet", width=8, norm_layer="groupnorm")
    assert {block.norm.num_groups for block in model.blocks} == {4}


def test_instance_norm_is_torchs():
    block = timm.create_model("dd_convnet", width=8, depth=1).blocks[0]
    x = torch.rand(3, 8, 5, 5)
    torch.testing.assert_close(block.norm(x), nn.functional.instance_norm(x))
