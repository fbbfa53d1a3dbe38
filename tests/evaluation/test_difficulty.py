"""`dd_plugin.evaluation.difficulty`: the score in closed form, and images of known difficulty."""

import math

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PillowImage
from torch import nn

from dd_plugin.data import Normalization, RealData
from dd_plugin.evaluation import difficulty
from dd_plugin.evaluation.coresets import easiest, hardest
from dd_plugin.evaluation.difficulty import YOUNG_NETWORKS, early_steps, el2n
from dd_plugin.evaluation.ordinary import training_steps
from dd_plugin.evaluation.preparation import InputBatches
from dd_plugin.seeds import seeded_generators
from tests.evaluation.short import shorten


def test_the_score_of_two_classes_is_the_missing_probability():
    # softmax - one_hot is (p - 1, 1 - p) for the class's probability p: its length is √2 (1 - p).
    logits = torch.tensor([[0.0, 2.0], [3.0, -1.0]], dtype=torch.float64)
    labels = torch.tensor([1, 1])
    probability = 1 / (1 + torch.exp(torch.tensor([-2.0, 4.0], dtype=torch.float64)))
    torch.testing.assert_close(el2n(logits, labels), math.sqrt(2) * (1 - probability))


def test_the_score_where_nothing_is_known():
    # Of k equal probabilities: √((1 - 1/k)² + (k - 1)/k²) = √((k - 1)/k).
    for classes in (2, 3, 10):
        score = el2n(torch.zeros(1, classes), torch.tensor([0]))
        assert score.dtype == torch.float64
        assert float(score) == pytest.approx(math.sqrt((classes - 1) / classes), rel=1e-15)


def test_a_network_that_diverged_finds_everything_as_hard_as_can_be():
    logits = torch.tensor([[float("nan"), 0.0], [1e30, 0.0]])
    scores = el2n(logits, torch.tensor([0, 1]))
    assert scores.tolist() == pytest.approx([math.sqrt(2)] * 2)


def test_a_quarter_of_a_training():
    assert early_steps(None) == training_steps(None) // 4
    assert [early_steps(images) for images in (10, 60_000)] == [50, 200]


KINDS = ("plain", "faint", "wrong")


def known_data():
    """Bright left and right halves: plain ones, faint ones, and some with the other's label."""
    random = np.random.default_rng(0)
    images, labels, kinds = [], [], []
    for kind, strength, count in zip(KINDS, (90, 4, 90), (20, 8, 3), strict=True):
        for label in (0, 1):
            for _ in range(count):
                image = random.integers(60, 90, (8, 8))
                side = label if kind != "wrong" else 1 - label
                image[:, 4 * side : 4 * side + 4] += strength
                images.append(PillowImage.fromarray(image.astype(np.uint8)))
                labels.append(label)
                kinds.append(kind)
    order = random.permutation(len(images))
    features = Features({"image": Image(), "label": ClassLabel(names=["left", "right"])})
    columns = {"image": [images[i] for i in order], "label": [labels[i] for i in order]}
    data = RealData.from_dataset(Dataset.from_dict(columns, features=features))
    return data, [kinds[i] for i in order]


def linear(seed):
    with seeded_generators(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))


def convolutional(seed):
    with seeded_generators(seed):
        layers = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(4)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 2))


def scores_of(data, new_network, size=17):
    transform = Normalization([0.35], [0.15])
    inputs = InputBatches(data, transform, torch.float32, size)
    return difficulty.of_images(
        new_network, data, inputs, lambda images, labels, seed: (transform(images), labels)
    )


def check_known(scores, labels, kinds):
    def chosen(rule, per_class):
        return [kinds[row] for row in rule(scores, labels, per_class).tolist()]

    assert chosen(hardest, 3) == ["wrong"] * 6
    assert chosen(easiest, 20) == ["plain"] * 40
    # Between them lie the faint ones, on which a network is of two minds.
    means = [float(scores[[k == kind for k in kinds]].mean()) for kind in KINDS]
    assert means == sorted(means)
    assert means[0] < 0.3
    assert means[2] > 1


@pytest.mark.parametrize("new_network", [linear, convolutional])
def test_mislabeled_images_are_the_hardest_and_plain_ones_the_easiest(new_network):
    data, kinds = known_data()
    scores = scores_of(data, new_network)
    assert (scores.dtype, scores.shape) == (torch.float64, (62,))
    check_known(scores, data.labels(), kinds)


def test_heads_know_the_same_by_features():
    data, kinds = known_data()
    ((images, labels),) = data.batches(100)
    # Features of very different sizes, and one that is constant.
    features = torch.cat([images.flatten(1) * torch.logspace(-3, 3, 64), torch.ones(62, 1)], 1)
    check_known(difficulty.of_features(features, labels, 2), labels, kinds)


def test_the_scores_are_the_mean_over_networks(monkeypatch):
    # Networks that are not trained and give the logits (0, w): √2 (1 - p), averaged over them.
    shorten(monkeypatch, 4)
    monkeypatch.setattr(difficulty, "train_on_real", lambda *args, **options: None)
    seeds = []

    def new_network(seed):
        seeds.append(seed)
        network = linear(0)
        network[1].weight.data.zero_()
        network[1].bias.data = torch.tensor([0.0, float(len(seeds))])
        return network

    data, _ = known_data()
    scores = scores_of(data, new_network)
    assert len(set(seeds)) == len(seeds) == YOUNG_NETWORKS
    weights = torch.arange(1, YOUNG_NETWORKS + 1).double()
    wrong = 1 / (1 + torch.exp(weights))  # of the right half
    expected = torch.where(data.labels() == 1, wrong.mean(), (1 - wrong).mean()) * math.sqrt(2)
    torch.testing.assert_close(scores, expected)


def test_the_scores_do_not_depend_on_how_images_are_batched(monkeypatch):
    shorten(monkeypatch, 8)
    data, _ = known_data()
    torch.testing.assert_close(
        scores_of(data, convolutional, 62), scores_of(data, convolutional, 5), rtol=0, atol=1e-5
    )


def test_the_scores_are_the_same_in_every_run(monkeypatch):
    shorten(monkeypatch, 8)
    data, _ = known_data()
    state = torch.get_rng_state()
    first = scores_of(data, convolutional)
    torch.manual_seed(5)
    assert torch.equal(first, scores_of(data, convolutional))
    torch.set_rng_state(state)
