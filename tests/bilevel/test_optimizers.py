import pytest
import torch

from dd_plugin.bilevel.optimizers import OPTIMIZERS, adam, adamw, sgd
from tests.bilevel.problems import relative_error

CASES = {
    "sgd": (sgd(), torch.optim.SGD, {}),
    "momentum": (sgd(0.9), torch.optim.SGD, {"momentum": 0.9}),
    "dampening": (sgd(0.9, dampening=0.3), torch.optim.SGD, {"momentum": 0.9, "dampening": 0.3}),
    "nesterov": (
        sgd(0.8, nesterov=True, weight_decay=0.01),
        torch.optim.SGD,
        {"momentum": 0.8, "nesterov": True, "weight_decay": 0.01},
    ),
    "adam": (adam(), torch.optim.Adam, {}),
    "adam decay": (
        adam((0.5, 0.9), eps=1e-3, weight_decay=0.1),
        torch.optim.Adam,
        {"betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1},
    ),
    "adamw": (adamw(), torch.optim.AdamW, {}),
}


def _gradients(step):
    generator = torch.Generator().manual_seed(step)
    return {
        "a": torch.randn(3, 2, generator=generator, dtype=torch.float64),
        "b": torch.randn(4, generator=generator, dtype=torch.float64),
    }


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tensors", [False, True])
def test_every_step_is_that_of_torch(case, tensors):
    ours, theirs, options = CASES[case]
    parameters = _gradients(100)
    leaves = {n: p.clone().requires_grad_() for n, p in parameters.items()}
    reference = theirs(leaves.values(), lr=0.05, **options)
    state = ours.init(parameters)
    hyper = None
    step_size = 0.05
    if tensors:
        step_size = torch.tensor(0.05, dtype=torch.float64)
        hyper = {k: torch.tensor(v, dtype=torch.float64) for k, v in ours.hyperparameters.items()}
    for step in range(6):
        gradients = _gradients(step)
        for name, leaf in leaves.items():
            leaf.grad = gradients[name].clone()
        reference.step()
        parameters, state = ours.update(gradients, state, parameters, step_size, hyper)
        for name, leaf in leaves.items():
            torch.testing.assert_close(parameters[name], leaf.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", CASES)
def test_update_changes_nothing_in_place(case):
    ours, _, _ = CASES[case]
    parameters, gradients = _gradients(0), _gradients(1)
    _, state = ours.update(gradients, ours.init(parameters), parameters, 0.1)
    before = [t.clone() for t in torch.utils._pytree.tree_leaves((parameters, gradients, state))]
    ours.update(gradients, state, parameters, 0.1)
    after = torch.utils._pytree.tree_leaves((parameters, gradients, state))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_derivatives_by_finite_differences(case):
    ours, _, _ = CASES[case]
    hyper = list(ours.hyperparameters)
    gradients = _gradients(1)

    def two_steps(p, step_size, *values):
        given = dict(zip(hyper, values, strict=True))
        theta, state = {"b": p}, ours.init({"b": p})
        for _ in range(2):
            g = {"b": gradients["b"] * theta["b"]}
            theta, state = ours.update(g, state, theta, step_size, given)
        return theta["b"]

    values = [
        torch.tensor(float(v), dtype=torch.float64, requires_grad=True)
        for v in ours.hyperparameters.values()
    ]
    p = (_gradients(0)["b"].abs() + 0.5).requires_grad_()
    step_size = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(two_steps, (p, step_size, *values))


def test_a_gradient_of_zero_gives_adam_a_finite_derivative():
    # theta' = theta - alpha m / (sqrt(v) + eps) with m = 0.1 g / 0.1 and v = g^2 in the first
    # step: at g = 0 the derivative is -alpha / eps.
    ours = adam(eps=0.1)
    p = {"a": torch.zeros(1, dtype=torch.float64)}
    g = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    new, _ = ours.update({"a": g}, ours.init(p), p, 0.01)
    (slope,) = torch.autograd.grad(new["a"].sum(), g)
    torch.testing.assert_close(slope, torch.tensor([-0.1], dtype=torch.float64))


def test_groups_have_their_own_values():
    ours = sgd(weight_decay={"weights": 0.1, "rest": 0.0}, groups=lambda n: _group(n))
    p, g = _gradients(0), _gradients(1)
    new, _ = ours.update(g, ours.init(p), p, {"weights": 0.5, "rest": 0.25})
    assert relative_error(new["a"], p["a"] - 0.5 * (g["a"] + 0.1 * p["a"])) < 1e-15
    assert relative_error(new["b"], p["b"] - 0.25 * g["b"]) < 1e-15


def _group(name):
    return "weights" if name == "a" else "rest"


def test_errors_name_cause_and_remedy():
    p = _gradients(0)
    with pytest.raises(ValueError, match="made without groups; pass `groups=`"):
        sgd().update(p, {}, p, {"weights": 0.1})
    with pytest.raises(ValueError, match=r"got none for \['rest'\]"):
        sgd(groups=_group).update(p, {}, p, {"weights": 0.1})
    with pytest.raises(ValueError, match="`nesterov` must go with a momentum"):
        sgd(nesterov=True)


def test_groups_are_a_function():
    with pytest.raises(TypeError, match="of a mapping pass its `get` method"):
        sgd(groups={"0.weight": "first"})


def test_the_table_names_every_optimizer():
    assert {name: make().name for name, make in OPTIMIZERS.items()} == {n: n for n in OPTIMIZERS}
