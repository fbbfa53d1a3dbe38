import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from dd_plugin.bilevel import (
    BilevelProblem,
    Device,
    Host,
    Last,
    MissingRuleWarning,
    Random,
    Recompute,
    adam,
    adamw,
    hypergradient,
    sgd,
    unroll,
)
from dd_plugin.bn import convert_bn
from tests.bilevel.problems import (
    assert_unchanged,
    convnet,
    frozen_copy,
    hard_batch,
    relative_error,
    soft_batches,
    worst_error,
)

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


def _mse(output, target):
    return (output - target).square().mean()


# Closed forms.


class _Scalar(nn.Module):
    def __init__(self, theta):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta, dtype=torch.float64))

    def forward(self, x):
        return self.theta * x


@pytest.mark.parametrize("method", ["mixed", "reverse", "autograd"])
def test_linear_regression_in_closed_form(method):
    # Inner loss (theta x - y)^2 with one example x, y:  theta' = theta - a 2 x (theta x - y).
    # With c = 1 - 2 a x^2 and d = 2 a x y:   theta_K = c^K theta_0 + d (1 - c^K) / (1 - c)
    #                                                 = c^K (theta_0 - y / x) + y / x.
    # Outer loss (theta_K z - t)^2, derivative s = 2 z (theta_K z - t) for theta_K, and
    #   d theta_K / d theta_0 = c^K
    #   d theta_K / d a       = K c^(K-1) (-2 x^2) (theta_0 - y/x)        (summed over the steps)
    theta, x, y, z, t, a, steps = 0.3, 0.7, 1.1, 1.3, -0.4, 0.2, 5
    model = _Scalar(theta)
    problem = BilevelProblem(model, inner_loss=_mse, outer_loss=_mse)
    pairs = torch.tensor([[x, y], [z, t]], dtype=torch.float64)
    inner, outer = (pair.split(1) for pair in pairs)
    result = hypergradient(problem, [inner] * steps, outer, step_size=a, method=method)
    c = 1 - 2 * a * x * x
    final = c**steps * (theta - y / x) + y / x
    slope = 2 * z * (final * z - t)
    assert float(result.outer_loss) == pytest.approx((final * z - t) ** 2, rel=1e-12)
    assert float(result.final.parameters["theta"]) == pytest.approx(final, rel=1e-12)
    assert float(result.parameters["theta"]) == pytest.approx(slope * c**steps, rel=1e-12)
    expected = slope * steps * c ** (steps - 1) * (-2 * x * x) * (theta - y / x)
    assert float(result.step_size) == pytest.approx(expected, rel=1e-12)
    # The label of step k moves theta by 2 a x, and c^(K-1-k) of it is left at the end.
    for k, bar in result.batches.items():
        expected = slope * 2 * a * x * c ** (steps - 1 - k)
        assert float(bar.labels) == pytest.approx(expected, rel=1e-12)


class _MeanOfBatch(nn.Module):
    """One BatchNorm feature, in eval mode its running mean is all that the output shows."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm1d(1, affine=False, momentum=0.25).double()
        self.theta = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x):
        y = self.bn(x)
        return y + self.theta if self.training else self.bn.running_mean.expand(len(x), 1)


@pytest.mark.parametrize("policy", ["stock", "tracked"])
def test_moving_average_in_closed_form(policy):
    # m_K = (1 - p)^K m_0 + sum_k p (1 - p)^(K-1-k) mean(x_k), outer loss m_K: so each value of a
    # batch of 4 at step k has gradient p (1 - p)^(K-1-k) / 4, and m_0 has (1 - p)^K.
    model = _MeanOfBatch()
    if policy == "tracked":
        convert_bn(model, "tracked")
    problem = BilevelProblem(
        model, inner_loss=lambda out, y: out.square().mean(), outer_loss=lambda out, y: out.mean()
    )
    batches = [(torch.randn(4, 1).double(), torch.zeros(4, 1).double()) for _ in range(3)]
    result = hypergradient(problem, batches, batches[0], step_size=0.1)
    for k in range(3):
        expected = torch.full((4, 1), 0.25 * 0.75 ** (2 - k) / 4, dtype=torch.float64)
        torch.testing.assert_close(result.batches[k].images, expected)
    start = result.statistics["bn.running_mean"]
    torch.testing.assert_close(start, torch.tensor([0.75**3], dtype=torch.float64))


# Against the whole graph, and against finite differences.


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


def test_several_outer_batches_are_their_mean():
    problem = BilevelProblem(_model("tracked"))
    batches, (images, labels) = soft_batches(2), hard_batch(size=6)
    whole = hypergradient(problem, batches, (images, labels), step_size=0.1)
    parts = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    split = hypergradient(problem, batches, parts, step_size=0.1)
    assert worst_error(split, whole)[0] < 1e-11


# Inputs made from other tensors.


@pytest.mark.parametrize("as_function", [False, True])
def test_leaves_get_what_autograd_would_give_them(as_function):
    problem = BilevelProblem(_model("tracked"), optimizer=sgd(0.5))
    outer = hard_batch()
    pool = torch.randn(4, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    soft = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    raw = torch.tensor(-3.0, dtype=torch.float64, requires_grad=True)

    def batch(step):
        noise = torch.rand(3, 3, 8, 8, dtype=torch.float64) if as_function else 0.5
        chosen = torch.arange(step, step + 3) % 4
        return pool[chosen].tanh() * noise, soft[chosen].softmax(1)

    batches = batch if as_function else [batch(k) for k in range(4)]
    alpha = nn.functional.softplus(raw)
    result = hypergradient(
        problem, batches, outer, step_size=alpha, steps=4, leaves=[pool, soft, raw], seed=1
    )
    for leaf, slope_of in zip((pool, soft, raw), result.leaves, strict=True):
        generator = torch.Generator().manual_seed(1)
        d = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
        losses = []
        for eps in (1e-6, -1e-6):
            with torch.no_grad():
                leaf += eps * d
                again = batch if as_function else [batch(k) for k in range(4)]
                losses.append(
                    hypergradient(
                        problem,
                        again,
                        outer,
                        step_size=nn.functional.softplus(raw).item(),
                        steps=4,
                        seed=1,
                    ).outer_loss
                )
                leaf -= eps * d
        slope = float((slope_of * d).sum())
        assert float((losses[0] - losses[1]) / 2e-6) == pytest.approx(slope, rel=1e-5)
    assert pool.grad is None


class _Transformed:
    """Inner and outer images scaled by a learned number, the outer images and labels learned."""

    def __init__(self):
        self.scale = torch.tensor(0.7, dtype=torch.float64)
        self.inner = soft_batches(3)
        self.images = hard_batch()[0]
        self.labels = torch.randn(5, 3, dtype=torch.float64)
        self.leaves = [t.requires_grad_() for t in (self.scale, self.images, self.labels)]

    def batches(self):
        return [((x * self.scale).tanh(), y) for x, y in self.inner]

    def outer(self):
        images, labels = (self.images * self.scale).tanh(), self.labels.softmax(1)
        return [(images[:2], labels[:2]), (images[2:], labels[2:])]

    def measured(self, loss):
        """Central differences of a loss of (batches, outer) for each leaf, with directions."""
        for leaf in self.leaves:
            d = torch.randn(leaf.shape, dtype=torch.float64)
            losses = []
            for eps in (1e-5, -1e-5):
                with torch.no_grad():
                    leaf += eps * d
                    losses.append(float(loss(self.batches(), self.outer())))
                    leaf -= eps * d
            yield d, (losses[0] - losses[1]) / 2e-5


@pytest.mark.parametrize("compile", [False, "trace"])
@pytest.mark.parametrize("outer_training", [False, True])
def test_leaves_of_the_outer_batch(compile, outer_training):
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Softplus() if isinstance(m, nn.ReLU) else m for m in convnet(width=2))
    )
    problem = BilevelProblem(
        convert_bn(model, "tracked"), outer_training=outer_training, compile=compile
    )
    made = _Transformed()

    def run(batches, outer, **options):
        return hypergradient(problem, batches, outer, step_size=0.3, **options)

    expected = list(made.measured(lambda *both: run(*both).outer_loss))
    for method in ("mixed", "reverse", "autograd"):
        result = run(made.batches(), made.outer(), leaves=made.leaves, method=method)
        for found, (d, slope) in zip(result.leaves, expected, strict=True):
            assert float((found * d).sum()) == pytest.approx(slope, rel=1e-6), method
            assert abs(slope) > 1e-6
    assert problem.compiling == compile


def test_the_outer_half_of_a_leaf_in_closed_form():
    # theta' = theta - a 2 x (theta x - y), outer loss (theta' z - t)^2. z and t get their partial
    # derivatives 2 theta' (theta' z - t) and -2 (theta' z - t); with x = z = w the inner half of w
    # is 2 w (theta' w - t) dtheta'/dx, dtheta'/dx = -2 a (2 theta x - y).
    theta, y, t, a = 0.3, 1.1, -0.4, 0.2
    w = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([t], dtype=torch.float64, requires_grad=True)
    problem = BilevelProblem(_Scalar(theta), inner_loss=_mse, outer_loss=_mse)
    label = torch.tensor([y], dtype=torch.float64)
    x = w.item()
    after = theta - a * 2 * x * (theta * x - y)
    error = after * x - t
    expected = 2 * after * error + 2 * x * error * -2 * a * (2 * theta * x - y)
    for method in ("mixed", "reverse", "autograd"):
        # As they are, and through a graph.
        for outer in ((w, target), (w * 1, target * 1)):
            result = hypergradient(
                problem, [(w, label)], outer, step_size=a, leaves=[w, target], method=method
            )
            assert float(result.leaves[0]) == pytest.approx(expected, rel=1e-12)
            assert float(result.leaves[1]) == pytest.approx(-2 * error, rel=1e-12)


def test_an_outer_batch_without_a_gradient_is_judged_once(monkeypatch):
    monkeypatch.setattr(BilevelProblem, "outer_batch", None)
    made = _Transformed()
    hypergradient(
        convnet(),
        made.batches(),
        hard_batch(),
        step_size=0.1,
        leaves=made.leaves,
        allow_unused=True,
    )
    hypergradient(convnet(), made.batches(), made.outer(), step_size=0.1)  # nothing asks for it


# Nothing leaks.


@pytest.mark.parametrize("method", ["mixed", "reverse", "autograd"])
def test_no_object_is_changed(method):
    model = _model("tracked", dropout=0.3).eval()
    batches, outer = soft_batches(2), hard_batch()
    before = frozen_copy(model)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = hypergradient(model, batches, outer, step_size=0.1, method=method)
    second = hypergradient(model, batches, outer, step_size=0.1, method=method)
    assert_unchanged(model, before)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert np.array_equal(states[2], np.random.get_state()[1])  # noqa: NPY002
    assert worst_error(first, second)[0] == 0.0
    assert all(not t.requires_grad for t in first.parameters.values())


# What can go wrong.


def test_a_loss_that_is_not_finite_is_a_result():
    problem = BilevelProblem(_model("stock"))
    batches = soft_batches(4)
    batches[2][0][0, 0, 0, 0] = float("inf")
    for method in ("mixed", "autograd"):
        result = hypergradient(problem, batches, hard_batch(), step_size=0.1, method=method)
        assert not result.finite
        assert result.first_nonfinite == 2
        assert all(t.isnan().all() for t in result.parameters.values())
        assert result.batches[0].images.isnan().all()


@pytest.mark.parametrize("method", ["mixed", "autograd"])
def test_a_parameter_without_elements_has_a_gradient_without_elements(method):
    class WithEmpty(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Flatten(), nn.Linear(192, 3))
            self.empty = nn.Parameter(torch.zeros(0))

    model = WithEmpty().double()
    result = hypergradient(model, soft_batches(2), hard_batch(), step_size=0.1, method=method)
    assert result.finite
    assert result.parameters["empty"].shape == (0,)


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g


class _WithoutForwardRule(nn.Module):
    def forward(self, x):
        return _Doubled.apply(x)


def test_an_operation_without_a_forward_rule_is_named_and_handled():
    model = nn.Sequential(*convnet(), _WithoutForwardRule())
    batches, outer = soft_batches(2), hard_batch()
    with pytest.warns(
        MissingRuleWarning, match=r"autograd.Function has no forward-mode rule"
    ) as caught:
        result = hypergradient(model, batches, outer, step_size=0.1)
    assert caught[0].filename == __file__
    oracle = hypergradient(model, batches, outer, step_size=0.1, method="autograd")
    assert result.method == "reverse"
    assert worst_error(result, oracle)[0] < 1e-9


@pytest.mark.parametrize("compile", [False, "trace"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("soft", [False, True])
def test_mean_squared_error_of_labels(compile, reduction, soft):
    # The inner loss of KIP and FRePo; hard labels have no tangent, soft ones do.
    def loss(logits, labels):
        target = labels if soft else functional.one_hot(labels, 3).double()
        return functional.mse_loss(logits, target, reduction=reduction).mean()

    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    shape = (3, 2, 2)
    batches = soft_batches(2, shape=shape) if soft else [hard_batch(shape=shape)] * 2
    outer = hard_batch(shape=shape)
    problem = BilevelProblem(model, inner_loss=loss, compile=compile)
    result = hypergradient(problem, batches, outer, step_size=0.1)
    oracle = hypergradient(
        BilevelProblem(model, inner_loss=loss), batches, outer, step_size=0.1, method="autograd"
    )
    assert result.method == "mixed"
    assert problem.compiling == compile
    assert worst_error(result, oracle)[0] < 1e-9


class _ZeroTangent(torch.autograd.Function):
    """Fails as torch's own rules do that write into a tangent which is zero."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g

    @staticmethod
    def jvp(ctx, t):
        return torch._efficientzerotensor(t.shape, dtype=t.dtype).add_(t)


def test_a_forward_rule_that_writes_into_a_zero_is_a_missing_one():
    class Layer(nn.Module):
        def forward(self, x):
            return _ZeroTangent.apply(x)

    model = nn.Sequential(*convnet(), Layer())
    batches, outer = soft_batches(2), hard_batch()
    with pytest.warns(MissingRuleWarning, match="an operation that torch does not name has no"):
        result = hypergradient(model, batches, outer, step_size=0.1)
    oracle = hypergradient(model, batches, outer, step_size=0.1, method="autograd")
    assert result.method == "reverse"
    assert worst_error(result, oracle)[0] < 1e-9


def test_autocast_keeps_a_float32_trajectory():
    model = convnet().float()
    problem = BilevelProblem(model, autocast=torch.bfloat16)
    batches = [(x.float(), y.float()) for x, y in soft_batches(2)]
    images, labels = hard_batch()
    result = hypergradient(problem, batches, (images.float(), labels), step_size=0.1)
    plain = hypergradient(model, batches, (images.float(), labels), step_size=0.1)
    assert result.finite
    assert all(t.dtype == torch.float32 for t in result.final.parameters.values())
    # bfloat16 has 8 bits: the two agree in direction, not in value.
    a, b = result.batches[0].images.flatten(), plain.batches[0].images.flatten()
    assert not torch.equal(a, b)
    assert float(torch.cosine_similarity(a, b, dim=0)) > 0.8


def test_unroll_takes_the_steps_of_a_hypergradient_to_the_bit():
    model = convert_bn(convnet(dropout=0.3), "tracked")
    problem = BilevelProblem(model, optimizer=adam())
    batches = soft_batches(3)
    options = {"step_size": torch.full((3,), 0.1, dtype=torch.float64), "seed": 4}
    whole = hypergradient(problem, batches, hard_batch(), **options)
    alone = unroll(problem, batches, **options)
    assert torch.equal(alone.inner_losses, whole.inner_losses)
    for one, other in zip(
        pytree.tree_leaves(alone.final), pytree.tree_leaves(whole.final), strict=True
    ):
        assert torch.equal(one, other)


def test_a_batch_that_is_made_once_gives_what_one_made_in_every_step_gives():
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    raw = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    logits = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True)
    real = torch.randn(5, 3, dtype=torch.float64), torch.arange(5) % 2

    def make(step):
        return raw.tanh() * (1 + step % 2), logits.softmax(1)

    both = [make(0), make(1)]
    ways = {
        "in every step": make,
        "in turns": lambda step: both[step % 2],
        "in stretches": lambda step: both[step // 3],
    }
    found = {
        name: hypergradient(
            model, batches, real, step_size=0.3, steps=6, leaves=[raw, logits]
        ).leaves
        for name, batches in ways.items()
    }
    expected = hypergradient(
        model, lambda step: make(step // 3), real, step_size=0.3, steps=6, leaves=[raw, logits]
    ).leaves
    for a, b in zip(found["in every step"], found["in turns"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)
    for a, b in zip(expected, found["in stretches"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)
