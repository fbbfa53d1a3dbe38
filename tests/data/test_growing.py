"""`dd_plugin.data.growing`: what was learned stays when classes or steps are added."""

import pytest
import torch

from dd_plugin.data.growing import grown_labels, grown_step_sizes, in_words, same_transform
from dd_plugin.data.transforms import Normalization
from dd_plugin.data.whitening import Whitening


def test_a_new_class_gets_the_probability_of_a_fresh_label():
    old = torch.tensor([[0.75, 0.25], [0.0, 1.0]])
    grown = grown_labels(old, "probabilities", [3, 1], 5)
    # A fresh label of five classes has 0.1 / 4 for each of the four others.
    assert torch.allclose(grown[:, [0, 2, 4]], torch.tensor(0.025))
    assert torch.allclose(grown.sum(1), torch.ones(2))
    assert torch.allclose(grown[0, 3] / grown[0, 1], torch.tensor(3.0))
    assert float(grown[1, 3]) == 0


def test_weights_of_new_classes_are_zero_and_the_others_stay():
    old = torch.tensor([[2.0, -1.0]])
    assert torch.equal(grown_labels(old, "weights", [0, 2], 3), torch.tensor([[2.0, 0.0, -1.0]]))


@pytest.mark.parametrize("form", ["probabilities", "weights"])
def test_without_new_classes_labels_are_put_in_order(form):
    old = torch.tensor([[0.7, 0.2, 0.1]])
    assert torch.equal(grown_labels(old, form, [2, 0, 1], 3), old[:, [1, 2, 0]])


@pytest.mark.parametrize(
    ("old", "shape", "expected"),
    [
        (torch.tensor(0.3), (2,), [0.3, 0.3]),
        (torch.tensor(0.3), (), 0.3),
        (torch.tensor([0.1, 0.2]), (4,), [0.1, 0.2, 0.2, 0.2]),
        (torch.tensor([0.1, 0.2, 0.3]), (2,), [0.1, 0.2]),
        (torch.tensor([0.1, 0.2]), (3, 2), [[0.1, 0.1], [0.2, 0.2], [0.2, 0.2]]),
        (torch.tensor([[0.1, 0.5]]), (2, 2), [[0.1, 0.5], [0.1, 0.5]]),
    ],
)
def test_a_step_keeps_its_step_size(old, shape, expected):
    assert torch.equal(grown_step_sizes(old, shape), torch.tensor(expected))


@pytest.mark.parametrize(
    ("old", "shape", "kinds"),
    [
        (torch.ones(3), (), ("per_step", "shared")),
        (torch.ones(3, 2), (3,), ("per_layer", "per_step")),
    ],
)
def test_several_step_sizes_do_not_become_one(old, shape, kinds):
    with pytest.raises(ValueError, match=f'must be "{kinds[0]}".* got "{kinds[1]}"'):
        grown_step_sizes(old, shape)


def test_transforms_are_compared_by_what_they_do():
    one = Normalization([0.5], [0.25])
    assert same_transform(one, Normalization([0.5 + 1e-9], [0.25]))
    assert not same_transform(one, Normalization([0.51], [0.25]))
    assert not same_transform(one, Normalization([0.5] * 3, [0.25] * 3))
    zeros, white = torch.zeros(1, 2, 2), torch.eye(4)
    whitened = [Whitening(zeros, torch.ones(1), matrix, eps=0.1) for matrix in (white, 2 * white)]
    assert same_transform(whitened[0], whitened[0])
    assert not same_transform(*whitened)
    assert not same_transform(one, whitened[0])
    assert in_words(one) == "mean 0.5 and std 0.25"
    assert in_words(whitened[0]) == "whitening"
