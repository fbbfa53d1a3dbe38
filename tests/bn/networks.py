"""Small networks with statistics as after some training, images for them, and a loop."""

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.utils.checkpoint import checkpoint

from dd_plugin.bn.policy import STATISTICS, TRAIN_WITH

policies = pytest.mark.parametrize("statistics", STATISTICS)
both_modes = pytest.mark.parametrize("train_with", TRAIN_WITH)


def network(dtype=torch.float64):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3),
        BatchNormAct2d(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    ).to(dtype)
    for layer in (model[1], model[3]):
        layer.running_mean.uniform_(-0.5, 0.5)
        layer.running_var.uniform_(0.5, 1.5)
    return model


def batches(count, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(6, 3, 8, 8, generator=generator).to(dtype) for _ in range(count)]


def train(model, inputs, make_optimizer=torch.optim.SGD, lr=0.05):
    model.train()
    optimizer = make_optimizer(model.parameters(), lr=lr)
    losses = []
    for x in inputs:
        optimizer.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def close(found, expected, tolerance=1e-12):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


class Checkpointed(nn.Module):
    def __init__(self, inner, use_reentrant=False):
        super().__init__()
        self.inner, self.use_reentrant = inner, use_reentrant

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=self.use_reentrant)


def nested():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4), nn.GroupNorm(2, 4))
    )


def trained(model):
    """The model, its BatchNorm statistics as no initialisation leaves them."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in [*model.named_buffers(), *model.named_parameters()]:
        if tensor.is_floating_point() and name.endswith(("running_mean", "running_var")):
            tensor.data = torch.rand(tensor.shape, generator=generator) + 0.5
    return model


def small_network(last=BatchNormAct2d):
    torch.manual_seed(0)
    return trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), last(4)))


def timm_model(name="test_resnet", **kwargs):
    torch.manual_seed(0)
    return trained(timm.create_model(name, num_classes=3, **kwargs)).eval()


def images(count=2, size=32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def classes(model):
    return [type(module) for module in model.modules()]
