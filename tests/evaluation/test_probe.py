"""Probes: the optimum that scikit-learn finds, and the strength that is best on held-out rows."""

import math
import warnings

import pytest
import torch
from torch.nn import functional as F

from dd_plugin.evaluation import probe as probe_module
from dd_plugin.evaluation.probe import (
    FIXED_STRENGTH,
    STRENGTHS,
    ProbeWarning,
    _folds,
    accuracy_of_head,
    fit_probe,
)


def problem(count=200, width=12, classes=4, signal=1.0, seed=0):
    """Correlated features of different sizes, not centered, with classes that overlap."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centers = signal * torch.randn(classes, width, generator=generator)
    features = torch.randn(count, width, generator=generator) + centers[labels]
    features = features @ torch.randn(width, width, generator=generator)
    return features * torch.logspace(-1, 0, width) + 5, labels


def standardized(features):
    features = features.double()
    mean = features.mean(0)
    scale = (features - mean).std(unbiased=False)
    return (features - mean) / scale, mean, scale


def by_scikit_learn(features, labels, strength):
    """Weight and bias for standardized features."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    inverse = 1 / (strength * len(labels))
    solver = linear_model.LogisticRegression(C=inverse, tol=1e-9, max_iter=100_000)
    solver.fit(features.numpy(), labels.numpy())
    return torch.from_numpy(solver.coef_), torch.from_numpy(solver.intercept_)


# --- the optimum ----------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [1.0, 0.01, 0.001])
@pytest.mark.parametrize(("count", "width", "classes"), [(200, 12, 4), (40, 100, 3), (60, 5, 20)])
def test_the_probe_is_that_of_scikit_learn(strength, count, width, classes):
    features, labels = problem(count, width, classes)
    rows, mean, scale = standardized(features)
    weight, bias = by_scikit_learn(rows, labels, strength)
    found = fit_probe(features, labels, classes, strength=strength)
    assert found.strength == strength
    torch.testing.assert_close(found.weight.double() * scale, weight, rtol=0, atol=1e-4)
    # The scaling is folded back: the bias is for raw features.
    torch.testing.assert_close(
        found.bias.double() + found.weight.double() @ mean, bias, rtol=0, atol=1e-3
    )
    logits = features.double() @ found.weight.T.double() + found.bias
    torch.testing.assert_close(logits, rows @ weight.T + bias, rtol=0, atol=1e-2)


def test_two_classes_are_a_softmax_of_two():
    # Each of the two rows is half of scikit-learn's one, so the penalty is half of it too.
    features, labels = problem(classes=2)
    rows, _, scale = standardized(features)
    weight, _ = by_scikit_learn(rows, labels, 0.01 / 2)
    found = fit_probe(features, labels, 2, strength=0.01)
    difference = (found.weight[1] - found.weight[0]).double() * scale
    torch.testing.assert_close(difference, weight[0], rtol=0, atol=1e-4)


def test_the_gradient_of_the_objective_is_zero():
    features, labels = problem()
    rows, mean, scale = standardized(features)
    found = fit_probe(features.double(), labels, 4, strength=0.003)
    weight = (found.weight.double() * scale).requires_grad_()
    bias = (found.bias + found.weight.double() @ mean).requires_grad_()
    loss = F.cross_entropy(rows @ weight.T + bias, labels)
    loss = loss + 0.003 / 2 * weight.square().sum()
    for gradient in torch.autograd.grad(loss, [weight, bias]):
        assert gradient.abs().max() < 1e-6


def test_many_rows_are_solved_in_float32(monkeypatch):
    monkeypatch.setattr(probe_module, "_EXACT_UP_TO", 0)
    features, labels = problem()
    rows, _, scale = standardized(features)
    weight, _ = by_scikit_learn(rows, labels, 0.01)
    found = fit_probe(features, labels, 4, strength=0.01)
    torch.testing.assert_close(found.weight.double() * scale, weight, rtol=0, atol=3e-3)
    fit_probe(features, labels, 4)


def test_shift_scale_and_rotation_of_the_features_change_no_logit():
    features, labels = problem()
    features = features.double()
    turned, _ = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64))
    changed = 7 * features @ turned - 4
    one, other = fit_probe(features, labels, 4), fit_probe(changed, labels, 4)
    assert one.strength == other.strength
    torch.testing.assert_close(
        features @ one.weight.double().T + one.bias,
        changed @ other.weight.double().T + other.bias,
        rtol=0,
        atol=1e-2,
    )


@pytest.mark.parametrize("count", [8, 200])
def test_constant_and_repeated_features_are_harmless(count):
    features, labels = problem(count)
    more = torch.cat([features, torch.full((count, 1), 0.1), torch.zeros(count, 1)], 1)
    found = fit_probe(more, labels, 4, strength=0.01)
    assert found.weight[:, -2:].abs().max() < 1e-6
    # Two of 14 features do not vary, which makes the common scale smaller: the penalty, too.
    plain = fit_probe(features, labels, 4, strength=0.01 * 12 / 14)
    torch.testing.assert_close(found.weight[:, :-2], plain.weight, rtol=1e-3, atol=1e-5)
    # Twice the same feature shares the weight.
    twice = fit_probe(torch.cat([features, features[:, :1]], 1), labels, 4, strength=0.01)
    torch.testing.assert_close(twice.weight[:, 0], twice.weight[:, -1], rtol=1e-3, atol=1e-5)


def test_features_that_are_all_equal_give_the_shares_of_the_classes():
    labels = torch.tensor([0, 0, 0, 1] * 5)
    found = fit_probe(torch.ones(20, 3), labels, 2)
    assert found.weight.abs().max() == 0
    assert float(found.bias[0] - found.bias[1]) == pytest.approx(math.log(3), abs=1e-4)


def test_half_precision_features_are_taken():
    features, labels = problem()
    half = features.bfloat16()
    one = fit_probe(half, labels, 4)
    assert one.weight.dtype == torch.float32
    torch.testing.assert_close(one.weight, fit_probe(half.float(), labels, 4).weight)


def features_of_random_layers(count, width, power, seed=0):
    """Of a network with random weights: most axes hardly vary, a few rows stick out."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    rows = torch.randn(count, 10, generator=generator)
    rows = rows + 0.7 * torch.randn(4, 10, generator=generator)[labels]
    for _ in range(2):
        weight = torch.randn(rows.shape[1], width, generator=generator)
        rows = (rows @ weight / rows.shape[1] ** 0.5).relu()
    return rows.pow(power), labels


def objective_of(found, features, labels):
    """The regularized loss of a probe, in float64."""
    rows, mean, scale = standardized(features)
    weight = found.weight.double() * scale
    bias = found.bias.double() + found.weight.double() @ mean
    loss = F.cross_entropy(rows @ weight.T + bias, labels)
    return float(loss + found.strength / 2 * weight.square().sum())


@pytest.mark.parametrize("strength", [1e-5, 1e-4, None])
@pytest.mark.parametrize("power", [1, 4])
@pytest.mark.parametrize(("count", "width"), [(150, 40), (400, 100), (200, 150), (12, 60)])
def test_features_of_random_weights_are_solved_to_the_optimum(count, width, power, strength):
    """Without a warning, which is an error here."""
    features, labels = features_of_random_layers(count, width, power)
    found = fit_probe(features, labels, 4, strength=strength)
    linear_model = pytest.importorskip("sklearn.linear_model")
    rows, mean, scale = standardized(features)
    theirs = linear_model.LogisticRegression(
        C=1 / (found.strength * count), solver="newton-cholesky", tol=1e-8, max_iter=1000
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where it does not get so far
        theirs.fit(rows.numpy(), labels.numpy())
    weight = torch.from_numpy(theirs.coef_) / scale
    other = probe_module.Probe(
        weight, torch.from_numpy(theirs.intercept_) - weight @ mean, found.strength
    )
    best = objective_of(other, features, labels)
    assert objective_of(found, features, labels) <= best + 1e-8


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_probe_that_is_cut_short_says_how_far_it_is_from_the_optimum(monkeypatch, scale, steps):
    features, labels = problem()
    features = features * scale
    best = objective_of(fit_probe(features, labels, 4, strength=1e-3), features, labels)
    monkeypatch.setattr(probe_module, "_MOST_STEPS", steps)
    with pytest.warns(ProbeWarning, match="still about .* after . Newton steps") as caught:
        found = fit_probe(features, labels, 4, strength=1e-3)
    told = float(str(caught[0].message).partition("about ")[2].partition(" above")[0])
    excess = objective_of(found, features, labels) - best
    assert excess / 3 < told < 3 * excess


def test_features_that_vary_by_chance_do_not_drown_the_others():
    """As with one image per class, where a standard deviation for each feature is noise."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(10, 300, generator=generator)
    noise = 0.3 * torch.randn(10 + 500, 300, generator=generator)
    labels = torch.cat([torch.arange(10), torch.arange(500) % 10])
    rows = centers[labels] + noise
    # 30 times as many features that hardly vary and tell nothing.
    more = 0.02 * torch.randn(510, 9000, generator=generator)
    rows = torch.cat([rows, more], 1)
    found = fit_probe(rows[:10], labels[:10], 10)
    assert accuracy_of_head(found.weight, found.bias, rows[10:], labels[10:]) > 0.95


# --- the strength ---------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", [0.0, 0.3, 2.0])
@pytest.mark.parametrize(("count", "many"), [(80, 2000), (300, 100)])
def test_the_strength_is_the_best_one_on_held_out_rows(monkeypatch, signal, count, many):
    """Against all strengths, solved by scikit-learn part by part."""
    monkeypatch.setattr(probe_module, "_MANY_ROWS", many)
    monkeypatch.setattr(probe_module, "_PATIENCE", 100)
    monkeypatch.setattr(probe_module, "_TOLERANCE", 1e-6)
    features, labels = problem(count, 6, 3, signal)
    rows, _, _ = standardized(features)
    folds = _folds(labels, 5)
    scores = []
    for strength in STRENGTHS:
        right = loss = 0.0
        for fold in range(5 if count <= many else 1):
            held = folds == fold
            weight, bias = by_scikit_learn(rows[~held], labels[~held], strength)
            logits = rows[held] @ weight.T + bias
            right += float((logits.argmax(1) == labels[held]).sum())
            loss += float(F.cross_entropy(logits, labels[held], reduction="sum"))
        scores.append((right, -loss))
    best = STRENGTHS[scores.index(max(scores))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProbeWarning)
        assert fit_probe(features, labels, 3, seed=5).strength == best


def test_noise_gets_a_stronger_penalty_than_a_signal():
    noise = fit_probe(*problem(1000, signal=0.0), 4).strength
    signal = fit_probe(*problem(1000, signal=0.7), 4).strength
    assert noise > 5 * signal


def test_the_seed_decides_what_is_held_out():
    labels = torch.arange(30) % 3
    assert torch.equal(_folds(labels, 1), _folds(labels, 1))
    assert not torch.equal(_folds(labels, 1), _folds(labels, 2))
    one, again = (fit_probe(*problem(), 4, seed=3) for _ in range(2))
    assert torch.equal(one.weight, again.weight)


@pytest.mark.parametrize("seed", range(5))
def test_each_part_has_its_share_of_each_class(seed):
    counts = [1, 2, 3, 5, 17, 100]
    labels = torch.arange(6).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(128)]
    folds = _folds(labels, seed)
    for index, count in enumerate(counts):
        of_class = folds[labels == index]
        if count == 1:
            assert of_class.tolist() == [-1]
            continue
        sizes = torch.bincount(of_class, minlength=5)
        assert sizes.sum() == count
        assert sizes.max() - sizes.min() <= 1
        assert sizes.max() < count  # some of the class are left to learn from
        assert sizes[0] >= 1  # the one part of a large set has all classes


def test_one_row_of_each_class_has_the_fixed_strength():
    features, labels = problem(10, 50, 10, signal=3.0)
    found = fit_probe(features, labels, 10)
    assert found.strength == FIXED_STRENGTH
    assert accuracy_of_head(found.weight, found.bias, features, labels) == 1.0


def test_a_class_with_one_row_is_never_held_out():
    features, labels = problem(40, 6, 3)
    labels[:] = labels % 2
    labels[7] = 2
    found = fit_probe(features, labels, 3)
    assert found.strength in STRENGTHS
    assert found.weight.isfinite().all()


# --- accuracy -------------------------------------------------------------------------------------


def test_accuracy_by_hand(monkeypatch):
    monkeypatch.setattr(probe_module, "_ROWS_AT_A_TIME", 2)
    weight, bias = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0.0, 0.5])
    features = torch.tensor([[2.0, 1.0], [1.0, 0.8], [0.0, 0.0], [3.0, 0.0], [1.0, 1.0]])
    # Logits differ by 2 - 1.5, 1 - 1.3, 0 - 0.5, 3 - 0.5, 1 - 1.5: classes 0, 1, 1, 0, 1.
    labels = torch.tensor([0, 1, 0, 0, 0])
    assert accuracy_of_head(weight, bias, features, labels) == 3 / 5
    assert accuracy_of_head(weight, bias, features.bfloat16(), labels) == 3 / 5


def test_accuracy_of_what_cannot_be_judged():
    weight, bias = torch.zeros(2, 3), torch.zeros(2)
    with pytest.raises(ValueError, match="at least one, got 0 and 0"):
        accuracy_of_head(weight, bias, torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="got 4 and 3"):
        accuracy_of_head(weight, bias, torch.zeros(4, 3), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="must be finite; the training of the head diverged"):
        accuracy_of_head(weight, bias * torch.nan, torch.zeros(4, 3), torch.zeros(4).long())
    features = torch.zeros(4, 3)
    features[2, 1] = torch.nan
    with pytest.raises(ValueError, match="`features` must be finite, but row 2 is not"):
        accuracy_of_head(weight, bias, features, torch.zeros(4).long())


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(6)}, r"must be \(N, d\) and `labels` \(N,\), got shapes \(6,\)"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, r"\(6, 3\) and \(5,\)"),
        ({"labels": torch.zeros(6)}, "must be class indices, got torch.float32"),
        ({"labels": torch.tensor([0, 1, 2, 0, 1, 3])}, "from 0 to 2, got 0 to 3"),
        ({"labels": torch.tensor([0, 1, 2, 0, 1, -1])}, "from 0 to 2, got -1 to 2"),
        ({"labels": torch.tensor([0, 0, 2, 0, 0, 2])}, "these have none: 1; leave them out"),
        ({"features": torch.full((6, 3), torch.inf)}, "must be finite, but row 0 is not"),
        ({"num_classes": 1}, "`num_classes` must be at least 2, got 1"),
        ({"strength": 0.0}, "`strength` must be positive, got 0.0"),
        ({"strength": math.nan}, "`strength` must be positive, got nan"),
    ],
)
def test_bad_input(change, message):
    good = {
        "features": torch.randn(6, 3),
        "labels": torch.tensor([0, 1, 2, 0, 1, 2]),
        "num_classes": 3,
    }
    with pytest.raises(ValueError, match=message):
        fit_probe(**good | change)


def test_no_rows_at_all():
    with pytest.raises(ValueError, match="these have none: 0, 1"):
        fit_probe(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 2)
