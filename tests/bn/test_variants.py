"""Classes made of a user's subclasses: with their forward, made once, or refused."""

import copy

import pytest
import torch
from torch import nn

from dd_plugin.bn import LearnableBatchNorm2d, convert_bn, revert_bn
from dd_plugin.bn.variants import learnable_class


class CallsSuper(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


def test_a_subclass_that_calls_super_keeps_its_forward():
    theirs = CallsSuper(3)
    ours = convert_bn(copy.deepcopy(theirs), "tracked")
    assert isinstance(ours, CallsSuper)
    x = torch.randn(4, 3, 2, 2)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    assert type(revert_bn(ours)) is CallsSuper


class Doubled(nn.BatchNorm2d):
    """A user's subclass that ends in its base's forward."""

    def __init__(self, channels, factor=2.0):
        super().__init__(channels)
        self.factor = factor

    def forward(self, x):
        return self.factor * super().forward(x)


class DoubledOldStyle(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super(DoubledOldStyle, self).forward(x)  # noqa: UP008 - what is tested


class DoubledTwice(Doubled):
    def forward(self, x):
        return 2 * super().forward(x)


class NoSubclasses(nn.BatchNorm2d):
    def __init_subclass__(cls, **kwargs):
        raise TypeError("NoSubclasses cannot be subclassed")


def pixels():
    return torch.randn(4, 3, 5, 5)


@pytest.mark.parametrize("kind", [Doubled, DoubledOldStyle, DoubledTwice])
@pytest.mark.parametrize("statistics", ["learned", "tracked", "frozen"])
def test_subclass_that_ends_in_its_base(kind, statistics):
    torch.manual_seed(0)
    layer, stock, x = kind(3), kind(3), pixels()
    assert convert_bn(layer, statistics) is layer
    assert isinstance(layer, kind)
    assert type(layer).__name__ == f"Learnable{kind.__name__}"
    for training in (False, True):  # eval first: stock statistics move in train mode
        expected = stock.train(training)(x)
        torch.testing.assert_close(layer.train(training)(x), expected)
    if statistics == "learned":
        layer.eval()(x).square().sum().backward()
        assert layer.running_mean.grad.abs().sum() > 0
    assert type(revert_bn(layer)) is kind


def test_subclass_that_overwrites_its_statistics_attribute_stays_frozen_when_asked():
    layer = convert_bn(Doubled(3, factor=3.0), "frozen")
    before = layer.running_mean.clone()
    layer.train()(pixels())
    assert torch.equal(layer.running_mean, before)
    assert layer.factor == 3.0


def test_class_that_refuses_subclasses_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.BatchNorm2d(3))
    model.append(nn.BatchNorm2d(3))
    layer = NoSubclasses(3)
    model.append(layer)
    with pytest.raises(TypeError, match="NoSubclasses cannot be subclassed"):
        convert_bn(model)
    assert [type(m) for m in model] == [nn.BatchNorm2d, nn.BatchNorm2d, NoSubclasses]
    assert [n for n, _ in model.named_parameters() if "running" in n] == []


def test_a_learnable_class_is_made_once():
    assert learnable_class(nn.BatchNorm2d) is LearnableBatchNorm2d
    assert learnable_class(nn.SyncBatchNorm) is learnable_class(nn.SyncBatchNorm)
    assert "BatchNorm" in learnable_class(nn.SyncBatchNorm).__name__
