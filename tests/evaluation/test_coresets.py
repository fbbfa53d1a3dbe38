"""Coresets: by hand on a line, and what holds for any features."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dd_plugin.evaluation.coresets import (
    easiest,
    hardest,
    herding,
    k_center,
    nearest_to_centroid,
    random_rows,
)

ALL = [random_rows, nearest_to_centroid, herding, k_center]
CHOSEN = ALL[1:]


def on_a_line(*values):
    return torch.tensor(values, dtype=torch.float32).view(-1, 1)


def test_nearest_by_hand():
    # Class 0 is 0, 1, 2, 9 with mean 3: distances 3, 2, 1, 6. Class 1 is 5, 6, 10 with mean 7.
    features = on_a_line(0, 5, 1, 6, 2, 10, 9)
    labels = torch.tensor([0, 1, 0, 1, 0, 1, 0])
    assert nearest_to_centroid(features, labels, 1).tolist() == [4, 3]
    assert nearest_to_centroid(features, labels, 3).tolist() == [4, 2, 0, 3, 1, 5]


def test_herding_by_hand():
    # 0, 1, 2, 9 with mean 3. First 2, whose mean is 2. Then the mean with 0 is 1, with 1 is 1.5,
    # with 9 is 5.5: distances 2, 1.5, 2.5, so 1. Then with 0 it is 1, with 9 it is 4: distances
    # 2 and 1, so 9, and 0 is left.
    features = on_a_line(0, 1, 2, 9)
    labels = torch.zeros(4, dtype=torch.int64)
    assert herding(features, labels, 4).tolist() == [2, 1, 3, 0]


def test_herding_takes_the_set_and_not_the_nearest_rows():
    # The mean is 0. Nearest: 1, then 1.5, then -2. The mean of 1 and -2 is nearer to 0.
    features = on_a_line(1, 1.5, -2, -0.5 - 3, 3)
    features[4] = -features[:4].sum()
    labels = torch.zeros(5, dtype=torch.int64)
    assert nearest_to_centroid(features, labels, 2).tolist() == [0, 1]
    assert herding(features, labels, 2).tolist() == [0, 2]


def test_k_center_by_hand():
    # 0, 1, 2, 9 with mean 3: 2 first; then 9 (distance 7); then 0 (2), then 1.
    features = on_a_line(0, 1, 2, 9)
    labels = torch.zeros(4, dtype=torch.int64)
    assert k_center(features, labels, 4).tolist() == [2, 3, 0, 1]


def test_the_first_of_equal_rows_is_taken():
    features = torch.zeros(6, 3)
    labels = torch.tensor([1, 0, 1, 0, 1, 0])
    for function in CHOSEN:
        assert function(features, labels, 2).tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize("seed", range(20))
def test_of_two_rows_the_first_is_the_nearest_to_their_mean(seed):
    features = torch.randn(2, 5, generator=torch.Generator().manual_seed(seed)) + 7
    for function in CHOSEN:
        assert function(features, torch.zeros(2, dtype=torch.int64), 2).tolist() == [0, 1]


@st.composite
def problems(draw):
    classes, per_class = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    # Two rows are as far from their mean, so which one is the first depends on their order.
    counts = [draw(st.integers(max(3, per_class), per_class + 6)) for _ in range(classes)]
    seed = draw(st.integers(0, 1000))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    return torch.randn(len(labels), 3, generator=generator), labels, per_class, generator


@pytest.mark.parametrize("function", ALL)
@settings(max_examples=40, deadline=None)
@given(problems())
def test_each_class_has_its_number_of_different_rows(function, problem):
    features, labels, per_class, _ = problem
    rows = function(features, labels, per_class)
    classes = int(labels.max()) + 1
    assert rows.dtype == torch.int64
    assert torch.equal(labels[rows], torch.arange(classes).repeat_interleave(per_class))
    assert len(rows.unique()) == len(rows)
    assert torch.equal(rows, function(features, labels, per_class))
    # Fewer are the first of more.
    if function is not random_rows:
        first = rows.view(classes, per_class)[:, :1].flatten()
        assert torch.equal(function(features, labels, 1), first)


@pytest.mark.parametrize("function", CHOSEN)
@settings(max_examples=40, deadline=None)
@given(problems())
def test_the_order_of_the_rows_and_a_shift_of_the_features_change_nothing(function, problem):
    features, labels, per_class, generator = problem
    order = torch.randperm(len(labels), generator=generator)
    rows = function(features, labels, per_class)
    assert torch.equal(order[function(features[order], labels[order], per_class)], rows)
    assert torch.equal(function(3 * features.double() + 5, labels, per_class), rows)


@settings(max_examples=40, deadline=None)
@given(problems())
def test_each_greedy_step_is_the_best_one(problem):
    """Against the definitions, written with loops over single rows."""
    features, labels, per_class, _ = problem
    features = features.double()
    for function in (herding, k_center):
        rows = function(features, labels, per_class).view(-1, per_class).tolist()
        for index, chosen in enumerate(rows):
            own = (labels == index).nonzero()[:, 0].tolist()
            mean = features[own].mean(0)
            for step in range(1, per_class):
                before = chosen[:step]

                def gain(row, before=before, mean=mean, function=function):
                    if function is herding:
                        return -float((features[[*before, row]].mean(0) - mean).norm())
                    return min(float((features[row] - features[b]).norm()) for b in before)

                best = max(gain(row) for row in own if row not in before)
                assert gain(chosen[step]) == pytest.approx(best)


def test_random_rows_follow_the_seed_and_are_drawn_evenly():
    labels = torch.arange(40) % 2
    features = torch.zeros(40, 1)
    drawn = torch.stack([random_rows(features, labels, 1, seed=seed) for seed in range(2000)])
    assert torch.equal(drawn[3], random_rows(features, labels, 1, seed=3))
    counts = torch.bincount(drawn.flatten(), minlength=40)
    # 100 on average, a standard deviation of 9.7.
    assert counts.min() > 60
    assert counts.max() < 140
    # The classes are not drawn by the same numbers.
    assert (drawn[:, 1] - drawn[:, 0]).unique().numel() > 20


@pytest.mark.parametrize("function", ALL)
def test_bad_input(function):
    features, labels = torch.zeros(5, 2), torch.tensor([0, 0, 0, 2, 2])
    with pytest.raises(ValueError, match="at least 1 rows, but class 1 has 0; ask for fewer"):
        function(features, labels, 1)
    with pytest.raises(ValueError, match="class 0 has 3, class 1 has 0, class 2 has 2"):
        function(features, labels, 4)
    with pytest.raises(ValueError, match="class 3 has 0"):
        function(features, torch.tensor([0, 1, 2, 2, 1]), 1, num_classes=4)
    with pytest.raises(ValueError, match="below `num_classes`, 2, got 2"):
        function(features, torch.tensor([0, 1, 2, 2, 1]), 1, num_classes=2)
    with pytest.raises(ValueError, match="`per_class` must be at least 1, got 0"):
        function(features, labels, 0)
    with pytest.raises(ValueError, match=r"must be \(N, d\).*\(5, 2\) and \(4,\)"):
        function(features, labels[:4], 1)
    with pytest.raises(ValueError, match="`labels` must be class indices"):
        function(features, labels.float(), 1)


@pytest.mark.parametrize("function", CHOSEN)
def test_features_that_are_not_finite(function):
    features = torch.zeros(4, 2)
    features[3, 1] = torch.nan
    with pytest.raises(ValueError, match="some of class 1 are not"):
        function(features, torch.tensor([0, 0, 1, 1]), 1)


@pytest.mark.parametrize("function", ALL)
def test_half_precision_is_taken(function):
    features = torch.randn(20, 3).bfloat16()
    labels = torch.arange(20) % 2
    assert torch.equal(function(features, labels, 3), function(features.float(), labels, 3))


def test_the_easiest_and_the_hardest_by_hand():
    # Class 0 has the scores 0.3, 0.1, 0.9, class 1 has 0.2, 1.4, 0.2: of equals the first one.
    scores = torch.tensor([0.3, 0.2, 0.1, 1.4, 0.9, 0.2], dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    assert easiest(scores, labels, 2).tolist() == [2, 0, 1, 5]
    assert hardest(scores, labels, 2).tolist() == [4, 0, 3, 1]
    assert hardest(scores, labels, 3).tolist() == [4, 0, 2, 3, 1, 5]
    with pytest.raises(ValueError, match="class 0 has 3"):
        easiest(scores, labels, 4)


@settings(max_examples=40, deadline=None)
@given(problems())
def test_no_other_row_is_easier_or_harder(problem):
    features, labels, per_class, _ = problem
    scores = features[:, 0].double()
    for rule, sign in ((easiest, 1), (hardest, -1)):
        for index, rows in enumerate(rule(scores, labels, per_class).view(-1, per_class)):
            own = (sign * scores[labels == index]).sort().values
            assert torch.equal(sign * scores[rows], own[:per_class])
