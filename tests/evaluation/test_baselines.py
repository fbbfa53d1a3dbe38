"""Baselines: ordinary training on real images, each a function of its seed."""

import pytest
import torch
from torch import nn

from dd_plugin.data import RealData
from dd_plugin.evaluation.baselines import train_on_all, train_on_few, train_on_random_real
from dd_plugin.evaluation.ordinary import accuracy_of_module
from tests.distiller.toy import toy_dataset
from tests.evaluation.short import shorten


@pytest.mark.parametrize("kind", ["few", "all"])
def test_baselines_learn_and_are_functions_of_the_seed(kind, monkeypatch):
    shorten(monkeypatch, 60)
    train, test = (RealData.from_dataset(toy_dataset(n, s)) for n, s in ((60, 0), (30, 1)))

    def prepare(images, labels, seed):
        return images - 0.5, labels

    def trained(seed):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        if kind == "few":
            train_on_random_real(network, train, 2, prepare, seed)
        else:
            train_on_all(network, train, prepare, seed)
        return network

    first, again, other = trained(0), trained(0), trained(1)
    assert torch.equal(first[1].weight, again[1].weight)
    assert not torch.equal(first[1].weight, other[1].weight)
    batches = [(x - 0.5, y) for x, y in test.batches(10)]
    assert accuracy_of_module(first, batches) > 0.6


@pytest.mark.parametrize(("count", "size"), [(60, 60), (300, 64)])
def test_a_batch_of_all_images_has_each_once(count, size, monkeypatch):
    shorten(monkeypatch, 3)
    train = RealData.from_dataset(toy_dataset(count))
    sizes = []

    def prepare(images, labels, seed):
        sizes.append(len(images.flatten(1).unique(dim=0)))
        return images, labels

    train_on_all(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), train, prepare, 0)
    images, labels = train.batch(count, 0)
    train_on_few(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), images, labels, prepare, 0)
    assert sizes == [size] * 6
