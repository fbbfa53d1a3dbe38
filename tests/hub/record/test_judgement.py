"""`dd_plugin.hub.record.judgement`: scores of a judge, in and out of JSON, and by the formula."""

import math

import pytest

from dd_plugin.hub.record.judgement import Judgement, in_points, in_share, robust_score

SCORES = Judgement(
    judge="ddranking 0.2.0",
    dataset="CIFAR10",
    model="ConvNet-3",
    epochs=300,
    hard_label_recovery=(30.0, 40.0),
    improvement_over_random=(10.0, 20.0),
    augmented=(4.0,),
    plain=(2.0,),
)


def test_the_ends_of_a_score():
    # (e^a - 1/e) / (e - 1/e): 0 at a = -1, 1 at a = 1, and (1 - 1/e) / (e - 1/e) = 1/(e + 1) at 0.
    assert robust_score(-100) == 0
    assert robust_score(100) == 1
    assert robust_score(0) == pytest.approx(1 / (math.e + 1), rel=1e-15)


def test_the_scores_weigh_both_differences_alike():
    assert SCORES.label_robust == (robust_score(-10), robust_score(-10))
    assert SCORES.augmentation_robust == (robust_score(3),)


def test_it_comes_back_from_json():
    assert Judgement.from_json(SCORES.to_json()) == SCORES
    damaged = Judgement.from_json({"judge": 3, "plain": "x", "augmented": [1, None, "y"]})
    assert damaged == Judgement(augmented=(1.0,))
    assert damaged.augmentation_robust == ()


def test_in_words():
    assert in_points(SCORES.hard_label_recovery) == "+35.0 ± 7.1 points"
    assert in_points((-0.25,)) == "-0.2 points"
    assert in_share((0.25, 0.5)) == "0.375 ± 0.177"
    assert (in_points(()), in_share(())) == ("", "")
