"""Ordinary training: its steps, its precision, and what it leaves behind."""

import pytest
import torch
from torch import nn

from dd_plugin.evaluation.ordinary import (
    accuracy_of_module,
    batch_size,
    train_on_real,
    training_steps,
)


@pytest.mark.parametrize(
    ("images", "size", "steps"),
    [
        (1, 1, 200),
        (10, 10, 200),
        # One step is a pass over them.
        (64, 64, 200),
        (120, 64, 200),
        # Twenty passes of ten steps, and of eleven.
        (640, 64, 200),
        (641, 64, 220),
        (2_560, 64, 800),
        (50_000, 64, 800),
        (None, 64, 800),
    ],
)
def test_steps_follow_the_number_of_images(images, size, steps):
    assert (batch_size(images), training_steps(images)) == (size, steps)


def convnet():
    torch.manual_seed(0)
    # Without biases, whose gradient in front of BatchNorm is nothing but rounding.
    convolutions = [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    more = [
        nn.Conv2d(8, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AvgPool2d(4),
    ]
    return nn.Sequential(*convolutions, *more, nn.Flatten(), nn.Linear(32, 2))


def data(step):
    generator = torch.Generator().manual_seed(step)
    labels = torch.arange(16) % 2
    return torch.randn(16, 3, 8, 8, generator=generator) + labels.view(-1, 1, 1, 1), labels


def by_hand(network, steps):
    """AdamW and half a cosine, in the usual layout."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        images, labels = data(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        schedule.step()
    return network


def test_the_layout_changes_roundings_and_nothing_else():
    network, expected = convnet(), by_hand(convnet(), 5)
    train_on_real(network, data, 5)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, expected.state_dict()[name], rtol=1e-3, atol=1e-5)
        assert tensor.is_contiguous()
    again = convnet()
    train_on_real(again, data, 5)
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_a_network_of_float64_trains_as_by_hand_to_the_last_digits():
    network, expected = convnet().double(), convnet().double()

    def doubled(step):
        images, labels = data(step)
        return images.double(), labels

    train_on_real(network, doubled, 3)
    optimizer = torch.optim.AdamW(expected.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    for step in range(3):
        images, labels = doubled(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(expected(images), labels).backward()
        optimizer.step()
        schedule.step()
    for one, other in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_autocast_is_for_training_alone():
    seen = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = convnet()

        def forward(self, x):
            out = self.body(x)
            seen.append((self.training, out.dtype))
            return out

    network = Watched()
    train_on_real(network, data, 2, autocast=torch.bfloat16)
    assert all(p.dtype == torch.float32 for p in network.parameters())
    assert seen[-1] == (True, torch.bfloat16)
    seen.clear()
    assert 0 <= accuracy_of_module(network, [data(0)]) <= 1
    assert set(seen) == {(False, torch.float32)}
    # It is in training mode after training, and a test leaves it so.
    assert network.training
