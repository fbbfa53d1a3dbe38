"""Solvers of heads: closed forms, and gradients against the whole graph, in float64."""

import pytest
import torch
from torch.nn import functional as F

from dd_plugin.bilevel import sgd
from dd_plugin.networks import RidgeHead, UnrolledHead
from tests.networks.head_inputs import CLASSES, constants, data


@pytest.mark.parametrize(("n", "d"), [(4, 6), (7, 5), (5, 5), (3, 40)])
@pytest.mark.parametrize("soft", [False, True])
def test_a_ridge_head_minimizes_its_objective(n, d, soft):
    features, targets, _ = data(n, d, soft=soft)
    found = RidgeHead().fit(
        features,
        targets,
        num_classes=CLASSES,
        step_sizes=torch.tensor(1.0),
        constants=constants(0.2, 1.0),
    )
    y = targets if soft else F.one_hot(targets, CLASSES).double()
    load = 0.2 * (features - features.mean(0)).square().sum() / n
    weight, bias = (t.clone().requires_grad_() for t in found)
    objective = (features @ weight.T + bias - y).square().sum() + load * weight.square().sum()
    for slope in torch.autograd.grad(objective, (weight, bias)):
        assert slope.abs().max() < 1e-10


def test_the_size_of_features_does_not_change_what_a_ridge_head_says():
    features, targets, (real, _) = data()
    how = {"num_classes": CLASSES, "step_sizes": torch.tensor(1.0), "constants": constants()}
    logits = RidgeHead().fit(features, targets, **how).logits(real)
    larger = RidgeHead().fit(7 * features, targets, **how).logits(7 * real)
    moved = RidgeHead().fit(features + 5, targets, **how).logits(real + 5)
    torch.testing.assert_close(larger, logits)
    torch.testing.assert_close(moved, logits)


def test_the_temperature_scales_the_logits_of_a_ridge_head():
    features, _, (real, _) = data(7, 5)
    # Four, two and one of the classes: a bias that is far from the same for all.
    targets = torch.tensor([0, 0, 1, 0, 2, 1, 0])
    how = {"num_classes": CLASSES, "step_sizes": torch.tensor(1.0)}
    once, thrice = (
        RidgeHead().fit(features, targets, **how, constants=constants(0.2, tau)).logits(real)
        for tau in (1.0, 3.0)
    )
    torch.testing.assert_close(thrice, 3 * once)


def test_scikit_learn_gives_the_same_ridge_regression():
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, targets, (real, _) = data(9, 6)
    load = 0.2 * float((features - features.mean(0)).square().sum()) / 9
    theirs = linear_model.Ridge(alpha=load).fit(features, F.one_hot(targets, CLASSES).double())
    ours = RidgeHead().fit(
        features,
        targets,
        num_classes=CLASSES,
        step_sizes=torch.tensor(1.0),
        constants=constants(0.2, 1.0),
    )
    torch.testing.assert_close(ours.logits(real), torch.from_numpy(theirs.predict(real)))


@pytest.mark.parametrize("soft", [False, True])
def test_the_gradient_of_a_ridge_head_passes_gradcheck(soft):
    features, targets, judged = data(soft=soft)
    names = list(constants())

    def loss(f, y, *values):
        return RidgeHead().gradient(
            f,
            y if soft else targets,
            judged,
            num_classes=CLASSES,
            step_sizes=torch.tensor(1.0),
            constants=dict(zip(names, values, strict=True)),
            seed=0,
        )

    found = loss(features, targets, *constants().values())
    assert found.finite
    analytic = [found.features, *([found.targets] if soft else []), *found.constants.values()]
    inputs = [features, *([targets] if soft else []), *constants().values()]
    eps = 1e-6
    for position, (t, slope) in enumerate(zip(inputs, analytic, strict=True)):
        for index in range(0, t.numel(), 3):
            values = []
            for sign in (1, -1):
                moved = [x.clone() for x in inputs]
                moved[position].view(-1)[index] += sign * eps
                f, *rest = moved
                y = rest.pop(0) if soft else targets
                values.append(loss(f, y, *rest).loss)
            numeric = (values[0] - values[1]) / (2 * eps)
            assert abs(numeric - slope.reshape(-1)[index]) < 1e-7


def plain_unroll(features, targets, judged, sizes, momentum):
    """The same by plain autograd, with the whole graph."""
    center = features.mean(0)
    scale = ((features - center).square().sum(1).mean() / 100).sqrt()
    x, real = (features - center) / scale, (judged[0] - center) / scale
    w = torch.zeros(CLASSES, features.shape[1], dtype=torch.float64, requires_grad=True)
    b = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=True)
    buffers = [torch.zeros_like(w), torch.zeros_like(b)]
    for size in sizes:
        loss = F.cross_entropy(F.linear(x, w, b), targets)
        slopes = torch.autograd.grad(loss, (w, b), create_graph=True)
        buffers = [momentum * m + g for m, g in zip(buffers, slopes, strict=True)]
        w, b = (p - size * m for p, m in zip((w, b), buffers, strict=True))
    return F.cross_entropy(F.linear(real, w, b), judged[1]), w / scale, b - w @ center / scale


@pytest.mark.parametrize("soft", [False, True])
def test_an_unrolled_head_is_exact_against_the_whole_graph(soft):
    features, targets, judged = data(soft=soft)
    sizes = torch.tensor([0.02, 0.05, 0.03], dtype=torch.float64)
    head = UnrolledHead(3, sgd(0.5))
    found = head.gradient(
        features, targets, judged, num_classes=CLASSES, step_sizes=sizes, constants={}, seed=0
    )
    leaves = [t.clone().requires_grad_() for t in (features, sizes)]
    y = targets.clone().requires_grad_() if soft else targets
    loss, weight, bias = plain_unroll(leaves[0], y, judged, leaves[1], 0.5)
    expected = torch.autograd.grad(loss, [*leaves, *([y] if soft else [])])
    torch.testing.assert_close(found.loss, loss.detach(), rtol=1e-12, atol=0)
    got = [found.features, found.step_sizes, *([found.targets] if soft else [])]
    for a, b in zip(got, expected, strict=True):
        assert (a - b).norm() / b.norm() < 1e-10
    trained = head.fit(features, targets, num_classes=CLASSES, step_sizes=sizes, constants={})
    torch.testing.assert_close(trained.weight, weight.detach())
    torch.testing.assert_close(trained.bias, bias.detach())


def test_features_that_are_all_alike_give_the_share_of_each_class():
    features = torch.ones(4, 6, dtype=torch.float64)
    targets = torch.tensor([0, 1, 2, 2])
    found = RidgeHead().fit(
        features,
        targets,
        num_classes=CLASSES,
        step_sizes=torch.tensor(1.0),
        constants=constants(0.2, 1.0),
    )
    expected = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)
    torch.testing.assert_close(found.logits(features[:1])[0], expected)
