"""The layout of a network: which ones take channels last, and that it is put back."""

import pytest
import timm
import torch
from torch import nn

import dd_plugin.networks.convnet  # noqa: F401 - registers its networks
from dd_plugin.evaluation.memory_layout import fastest_layout, takes_channels_last

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def convnet(norm_layer="batchnorm2d"):
    torch.manual_seed(0)
    return timm.create_model("dd_convnet", width=8, norm_layer=norm_layer, img_size=16)


class Viewed(nn.Module):
    """A network that is written for the usual layout, in training alone if it is told so."""

    def __init__(self, in_training_alone=False):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
        self.head = nn.Linear(4 * 12 * 12, 2)
        self.in_training_alone = in_training_alone

    def forward(self, x):
        features = self.body(x)
        if self.in_training_alone and not self.training:
            return self.head(features.flatten(1))
        return self.head(features.view(len(x), -1))


@pytest.mark.parametrize(
    ("make", "taken"),
    [
        (convnet, True),
        (lambda: convnet("none"), True),
        (lambda: convnet("groupnorm"), True),
        # They compute by channel, and the other layout takes a third longer.
        (lambda: convnet("instancenorm2d"), False),
        (lambda: convnet(nn.InstanceNorm2d), False),
        (lambda: timm.create_model("test_resnet", num_classes=3), True),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), False),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 16), nn.Flatten(), nn.Linear(4, 2)), False),
        (Viewed, False),
        (lambda: Viewed(in_training_alone=True), False),
    ],
)
def test_networks_of_convolutions_take_channels_last(make, taken):
    network = make()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    state = torch.get_rng_state()
    assert takes_channels_last(network, IMAGES) == taken
    # Trying leaves no trace: no statistics, no gradients, no draws.
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("images", [IMAGES.double(), IMAGES[:, 0], IMAGES.to("meta")])
def test_only_what_is_known_to_be_faster_is_rearranged(images):
    assert not takes_channels_last(convnet().to(images), images)


def test_the_network_is_as_it_was_afterwards():
    network = convnet()
    weight = network.blocks[0].conv.weight
    with fastest_layout(network) as arranged:
        inside = arranged(IMAGES)
        assert inside.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(inside, IMAGES)
        assert weight.is_contiguous(memory_format=torch.channels_last)
    assert weight.is_contiguous()
    assert network.blocks[0].conv.weight is weight


def test_a_network_of_the_usual_layout_gets_its_input_as_it_is():
    with fastest_layout(Viewed()) as arranged:
        assert arranged(IMAGES) is IMAGES
