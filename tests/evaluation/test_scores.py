import math

import pytest
import torch
from torch import nn

from dd_plugin.bilevel import BilevelProblem, initial_state
from dd_plugin.bn import convert_bn, revert_bn
from dd_plugin.evaluation import (
    DivergedWarning,
    Scores,
    accuracy_of,
    network_seed,
    score,
)
from dd_plugin.evaluation.ordinary import accuracy_of_module
from dd_plugin.evaluation.scores import share_right, train_on
from tests.hub.toy import synthetic_set


def test_mean_and_spread_are_those_of_a_sample():
    scores = Scores((0.5, 0.7))
    assert scores.mean == pytest.approx(0.6)
    assert scores.std == pytest.approx(math.sqrt(0.02))
    assert str(scores) == "60.0 ± 14.1 %"
    assert (Scores((0.5,)).std, str(Scores((0.5,)))) == (0.0, "50.0 %")


def test_a_difference_has_the_spread_of_its_pairs():
    # Pairs differ by -1 and by -3 points: their mean is -2, their deviation sqrt(2).
    exact, png = Scores((0.50, 0.70), seeds=(1, 2)), Scores((0.49, 0.67), seeds=(1, 2))
    assert png.minus(exact) == "-2.0 ± 1.4 points"
    assert exact.minus(png) == "+2.0 ± 1.4 points"
    assert exact.minus(exact) == "+0.0 ± 0.0 points"
    assert Scores((0.49, 0.67)).minus(exact) == "-2.0 ± 1.4 points"  # a row without its seeds


@pytest.mark.parametrize(
    "other",
    [Scores((0.5,)), Scores((0.5, 0.6, 0.7)), Scores((0.5, 0.6), seeds=(1, 3))],
)
def test_without_pairs_there_is_no_difference(other):
    assert Scores((0.5, 0.7), seeds=(1, 2)).minus(other) is None
    assert other.minus(Scores((0.5, 0.7), seeds=(1, 2))) is None


def test_one_network_says_nothing_about_a_difference():
    assert Scores((0.5,)).minus(Scores((0.275,))) is None


def test_the_share_counts_images_not_batches():
    logits = torch.eye(3)
    labels = torch.tensor([0, 1, 0])
    for sizes in ([3], [1, 2], [2, 1], [1, 1, 1]):
        batches = list(zip(logits.split(sizes), labels.split(sizes), strict=True))
        assert share_right(lambda x: x, batches) == 2 / 3
    with pytest.raises(ValueError, match="at least one image, got none"):
        share_right(lambda x: x, [])


def batch_norm_network():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(2)
    return nn.Sequential(nn.Conv2d(1, 2, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))


def test_accuracy_does_not_depend_on_the_company_of_an_image():
    network = convert_bn(batch_norm_network(), "tracked").double()
    problem = BilevelProblem(network)
    synthetic = synthetic_set(dtype=torch.float64)
    state = train_on(synthetic, problem, initial_state(problem), seed=0)
    images, labels = torch.randn(40, 1, 8, 8).double(), torch.arange(40) % 2
    batches = {
        size: list(zip(images.split(size), labels.split(size), strict=True)) for size in (1, 7, 40)
    }
    found = {size: accuracy_of(problem, state, {}, some) for size, some in batches.items()}
    assert len(set(found.values())) == 1
    # The module with those weights says the same, whatever mode it was left in.
    own = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    with torch.no_grad():
        for name, value in {**state.parameters, **state.statistics}.items():
            own[name].copy_(value)
    revert_bn(network).train()
    assert accuracy_of_module(network, batches[7]) == found[7]
    assert network.training


def test_each_network_has_a_seed_of_its_own():
    seeds = {network_seed(seed, index) for seed in range(20) for index in range(20)}
    assert len(seeds) == 400


def test_scores_follow_the_states_and_seeds():
    problem = BilevelProblem(batch_norm_network())
    synthetic = synthetic_set(augmentation="dsa")
    batches = [(torch.randn(60, 1, 8, 8), torch.arange(60) % 2)]
    states = [initial_state(problem, batch_norm_network()) for _ in range(2)]
    found = score(synthetic, problem, states, [0, 0], batches)
    assert found.accuracies[0] == found.accuracies[1]
    # Augmentation is the seed's.
    final = [train_on(synthetic, problem, states[0], seed) for seed in (0, 1)]
    assert not torch.equal(final[0].parameters["0.weight"], final[1].parameters["0.weight"])


def test_images_without_a_class_count_as_wrong():
    logits = torch.tensor([[torch.nan, 1.0], [1.0, 0.0], [0.0, torch.nan], [0.0, 1.0]])
    batches = [(logits, torch.tensor([0, 0, 1, 1]))]
    with pytest.warns(DivergedWarning, match="for 2 of 4 images, which count as wrong"):
        assert share_right(lambda x: x, batches) == 0.5
    infinite = torch.tensor([[torch.inf, 1.0], [-torch.inf, 0.0]])
    assert share_right(lambda x: x, [(infinite, torch.tensor([0, 1]))]) == 1.0


def test_scores_of_several_architectures_have_the_seeds_of_each():
    one, other = (Scores((0.5, mean), seeds=(3, 4)) for mean in (0.25, 0.75))
    joined = Scores.joined({"a": one, "b": other})
    assert joined.seeds == (3, 4)
    assert joined.accuracies == (0.5, 0.25, 0.5, 0.75)
    # Where they came from is no part of what was measured.
    assert one == Scores((0.5, 0.25))
