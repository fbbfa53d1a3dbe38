"""The limit on the size of networks: kept before memory is taken, and without other effects."""

import pytest
import torch
from torch import nn

from dd_plugin.networks.errors import ModelLoadError
from dd_plugin.networks.fresh import fresh_network
from dd_plugin.networks.names import factory_from

BIG = [
    ("timm/vit_7b_patch16_dinov3", {}),
    ("timm/dd_convnet", {"width": 200_000}),
    ("timm/dd_convnet", {"depth": 1_000_000}),
    ("timm/vit_tiny_patch16_224", {"embed_dim": 300_000}),
    ("timm/vit_tiny_patch16_224", {"depth": 900_000}),
    ("timm/resnet18", {"num_classes": 1 << 20}),
]


@pytest.mark.parametrize(("name", "model_args"), BIG, ids=str)
def test_a_set_cannot_ask_for_a_huge_network(name, model_args):
    state = torch.random.get_rng_state()
    with pytest.raises(ModelLoadError, match=r"`max_parameters`|more than 20,000 l|could not"):
        fresh_network(
            name, 0, 2, (3, 32, 32), model_args, from_record=True, max_parameters=100_000_000
        )
    assert torch.equal(torch.random.get_rng_state(), state)


def test_looking_at_the_size_changes_no_weight():
    first, second = (
        fresh_network("timm/test_resnet", 0, 2, (3, 32, 32), max_parameters=most)
        for most in (None, 10**8)
    )
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_network_that_cannot_be_made_without_memory_is_counted_all_the_same(monkeypatch):
    def measured(*args, **options):
        float(torch.ones(()).sum())  # as old code does, which fails without memory
        return nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))

    monkeypatch.setattr("timm.create_model", measured)
    assert factory_from("timm/resnet18", {}, max_parameters=220)() is not None
    with pytest.raises(ModelLoadError, match="more than 219 parameters"):
        factory_from("timm/resnet18", {}, max_parameters=219)()
