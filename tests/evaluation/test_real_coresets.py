"""`dd_plugin.evaluation.real_coresets`: the rules of coresets on the pixels of real images."""

import pytest
import torch

from dd_plugin.data import RealData
from dd_plugin.evaluation.coresets import herding
from dd_plugin.evaluation.real_coresets import (
    DIFFICULTY_RULES,
    RULES,
    RealCoresets,
    pixel_features,
    rows_of,
)
from dd_plugin.evaluation.training_images import TrainingImages
from tests.distiller.toy import toy_dataset


@pytest.fixture
def data():
    return RealData.from_dataset(toy_dataset(30))


def test_features_are_the_pixels(data):
    (images, _), *rest = data.batches(100)
    assert not rest
    features = pixel_features(data)
    assert (features.dtype, features.shape) == (torch.uint8, (30, 64))
    assert torch.equal(features, (images.flatten(1) * 255).round().to(torch.uint8))


def test_large_images_are_averaged(data):
    large = RealData.from_dataset(toy_dataset(6, size=64))
    (images, _), *_ = large.batches(100)
    features = pixel_features(large)
    assert features.shape == (6, 32 * 32)
    means = images.reshape(6, 32, 2, 32, 2).mean((2, 4)).flatten(1) * 255
    assert (features - means).abs().max() <= 0.501


@pytest.mark.parametrize("kind", RULES)
def test_the_images_are_those_of_the_rule_in_its_order(data, kind):
    rows = RULES[kind](pixel_features(data), data.labels(), 2)
    everything = torch.cat([images for images, _ in data.batches(7)])
    images, labels = RealCoresets(data).images(kind, 2)
    assert torch.equal(images, everything[rows])
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(set(rows.tolist())) == 6


def test_the_nearest_image_to_the_mean_by_hand():
    # Of the rows 0, 4 and 5 of one class the mean is 3: the row 4 is nearest.
    pixels = torch.zeros(3, 1, 1, 1) + torch.tensor([0.0, 4.0, 5.0]).view(3, 1, 1, 1) / 255

    class Three:
        shape, num_classes = (1, 1, 1), 1

        def batches(self, size):
            yield pixels, torch.zeros(3, dtype=torch.long)

        def labels(self):
            return torch.zeros(3, dtype=torch.long)

    images, labels = RealCoresets(Three()).images(TrainingImages.CENTROID, 1)
    assert (round(255 * images.item()), labels.tolist()) == (4, [0])


def test_a_choice_is_made_once(data, monkeypatch):
    calls = []

    def rule(*args, **options):
        calls.append(args)
        return herding(*args, **options)

    monkeypatch.setitem(RULES, TrainingImages.HERDING, rule)
    coresets = RealCoresets(data)
    first, again = (coresets.images(TrainingImages.HERDING, 1)[0] for _ in range(2))
    assert first is again
    assert len(calls) == 1
    coresets.images(TrainingImages.HERDING, 2)
    assert calls[0][0] is calls[1][0]  # the pixels are read once


def test_a_class_with_too_few_images_is_named(data):
    with pytest.raises(ValueError, match="class 0 has 10"):
        RealCoresets(data).images(TrainingImages.K_CENTER, 11)


def test_rows_are_read_across_batches(data):
    everything = torch.cat([images for images, _ in data.batches(100)])
    rows = torch.tensor([0, 6, 7, 8, 29])
    for size in (1, 7, 100):
        assert torch.equal(rows_of(data, rows, size), everything[rows])


def test_the_difficulty_is_asked_for_once_and_only_where_it_decides(data):
    asked = []

    def difficulty():
        asked.append(True)
        return torch.linspace(0, 1, 30, dtype=torch.float64)

    coresets = RealCoresets(data, difficulty)
    coresets.images(TrainingImages.HERDING, 1)
    assert not asked
    everything = torch.cat([images for images, _ in data.batches(100)])
    easy, labels = coresets.images(TrainingImages.EASIEST, 2)
    hard, _ = coresets.images(TrainingImages.HARDEST, 2)
    assert asked == [True]
    # The classes take turns, and the rows become harder.
    assert torch.equal(easy, everything[[0, 3, 1, 4, 2, 5]])
    assert torch.equal(hard, everything[[27, 24, 28, 25, 29, 26]])
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("kind", DIFFICULTY_RULES)
def test_images_that_come_back_are_behind_all_others_in_their_order(data, kind):
    images = torch.cat([images for images, _ in data.batches(100)])[:5]
    # The extreme image is there three times; the others are in no order.
    scores = torch.tensor([0.5, 0.1, 0.9, 0.3, 0.7, 0.1, 0.9, 0.9, 0.1], dtype=torch.float64)
    pixels = images[[0, 1, 2, 3, 4, 1, 2, 2, 1]]

    class Nine:
        shape, num_classes = (1, 8, 8), 1

        def batches(self, size):
            yield pixels, self.labels()

        def labels(self):
            return torch.zeros(9, dtype=torch.long)

    coresets = RealCoresets(Nine(), lambda: scores)
    easy_first = [1, 3, 0, 4, 2]
    order = easy_first if kind is TrainingImages.EASIEST else easy_first[::-1]
    assert torch.equal(coresets.images(kind, 4)[0], images[order[:4]])
    # Where there are no others, one comes back.
    assert torch.equal(coresets.images(kind, 6)[0][:5], images[order])
