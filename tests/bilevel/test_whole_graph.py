"""The oracle against finite differences, and every method, storage and window against it."""

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from dd_plugin.bilevel import (
    BilevelProblem,
    Device,
    Host,
    Last,
    Random,
    Recompute,
    adam,
    adamw,
    hypergradient,
    sgd,
)
from dd_plugin.bn import convert_bn
from tests.bilevel.problems import convnet, hard_batch, relative_error, soft_batches, worst_error

POLICIES = {
    "stock": None,
    "tracked": ("tracked", "batch"),
    "learned": ("learned", "batch"),
    "learned running": ("learned", "running"),
    "frozen running": ("frozen", "running"),
}
STORAGES = (Device(2), Host(3), Recompute(), Recompute(2))


def _model(policy, **options):
    model = convnet(**options)
    return model if POLICIES[policy] is None else convert_bn(model, *POLICIES[policy])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("optimizer", [sgd(0.9, nesterov=True, weight_decay=0.01), adamw()])
def test_every_method_and_storage_equals_the_whole_graph(policy, optimizer):
    problem = BilevelProblem(_model(policy), optimizer=optimizer)
    batches, outer = soft_batches(5), hard_batch()
    step_size = torch.rand(5, dtype=torch.float64) * 0.1
    oracle = hypergradient(problem, batches, outer, step_size=step_size, method="autograd")
    for method in ("mixed", "reverse"):
        for storage in STORAGES if method == "mixed" else STORAGES[:1]:
            result = hypergradient(
                problem, batches, outer, step_size=step_size, method=method, storage=storage
            )
            assert result.finite
            error, where = worst_error(result, oracle)
            assert error < 1e-9, (method, storage, where)


@pytest.mark.parametrize("optimizer", [sgd(), sgd(0.5, dampening=0.5), adam(weight_decay=0.1)])
@pytest.mark.parametrize("window", [Last(2), Random(3)])
def test_windows_equal_the_whole_graph_of_the_window(optimizer, window):
    problem = BilevelProblem(_model("tracked"), optimizer=optimizer)
    batches, outer = soft_batches(5), hard_batch()
    options = {"step_size": 0.05, "window": window, "seed": 3}
    oracle = hypergradient(problem, batches, outer, method="autograd", **options)
    result = hypergradient(problem, batches, outer, **options)
    assert (result.start, result.stop) == window.bounds(5, _window_seed(3))
    assert list(result.batches) == list(range(result.start, result.stop))
    assert worst_error(result, oracle)[0] < 1e-9


def _window_seed(seed):
    from dd_plugin.seeds import InnerPurpose, mix

    return mix(seed, InnerPurpose.WINDOW)


def test_a_window_is_the_full_run_from_its_start():
    problem = BilevelProblem(_model("tracked"), optimizer=sgd(0.9))
    batches, outer = soft_batches(4), hard_batch()
    before = hypergradient(problem, batches[:2], outer, step_size=0.05).final
    full = hypergradient(problem, batches[2:], outer, step_size=0.05, initial=before)
    last = hypergradient(problem, batches, outer, step_size=0.05, window=Last(2))
    assert relative_error(last.parameters, full.parameters) < 1e-12
    assert relative_error(last.batches[3].images, full.batches[1].images) < 1e-12


def _along(tree, direction, eps):
    return pytree.tree_map(lambda t, d: t + eps * d, tree, direction)


@pytest.mark.parametrize("optimizer", [sgd(0.9), adam((0.8, 0.9), eps=1e-3)])
def test_finite_differences(optimizer):
    # Role by role along a random direction: central differences at 1e-5 leave an error of order
    # 1e-10 relative to third derivatives of order one.
    model = convnet(width=2)
    model = nn.Sequential(*(nn.Softplus() if isinstance(m, nn.ReLU) else m for m in model))
    problem = BilevelProblem(convert_bn(model, "tracked"), optimizer=optimizer)
    batches, outer = soft_batches(3), hard_batch()
    # A run that is under way: Adam's second moments start away from 0.
    before = hypergradient(problem, soft_batches(2), outer, step_size=0.05).final
    floats = {k: v for k, v in before.optimizer.items() if isinstance(v, dict)}
    counts = {k: v for k, v in before.optimizer.items() if k not in floats}
    constants = {n: torch.full((), 0.2).double() for n in problem.model.constants}
    hyper = {k: torch.tensor(v).double() for k, v in optimizer.hyperparameters.items()}
    point = {
        "images": [x for x, _ in batches],
        "labels": [y for _, y in batches],
        "step_size": 0.02 + 0.08 * torch.rand(3, dtype=torch.float64),
        "parameters": before.parameters,
        "statistics": before.statistics,
        "optimizer_state": floats,
        "hyperparameters": hyper,
    }
    for kind in ("momentum_shift", "mean_correction", "var_correction"):
        point[kind] = {n: t for n, t in constants.items() if n.endswith(kind)}
        assert len(point[kind]) == 2

    def run(at):
        moved = {n: t for kind in list(point)[-3:] for n, t in at[kind].items()}
        return hypergradient(
            problem,
            list(zip(at["images"], at["labels"], strict=True)),
            outer,
            step_size=at["step_size"],
            initial=before._replace(
                parameters=at["parameters"],
                statistics=at["statistics"],
                optimizer={**at["optimizer_state"], **counts},
            ),
            constants=moved,
            hyperparameters=at["hyperparameters"],
        )

    result = run(point)
    gradient = {
        "images": [b.images for b in result.batches.values()],
        "labels": [b.labels for b in result.batches.values()],
        **{role: getattr(result, role) for role in list(point)[2:7]},
        **{kind: {n: result.constants[n] for n in point[kind]} for kind in list(point)[-3:]},
    }
    generator = torch.Generator().manual_seed(5)
    for role, at in point.items():
        direction = pytree.tree_map(
            lambda t: torch.randn(t.shape, generator=generator, dtype=t.dtype), at
        )
        if role == "optimizer_state":  # relative: second moments are small and stay positive
            direction = pytree.tree_map(torch.mul, direction, at)
        products = pytree.tree_map(lambda g, d: (g * d).sum(), gradient[role], direction)
        expected = float(sum(pytree.tree_leaves(products)))
        # For these a unit is a long way.
        eps = 1e-6 if role in ("step_size", "hyperparameters") else 1e-5
        losses = [
            float(run({**point, role: _along(at, direction, sign * eps)}).outer_loss)
            for sign in (1, -1)
        ]
        measured = (losses[0] - losses[1]) / (2 * eps)
        assert measured == pytest.approx(expected, rel=1e-6, abs=1e-9), role
        assert abs(expected) > 1e-6, role
