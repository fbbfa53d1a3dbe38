"""Hypergradients whose values can be written down, for every inner optimizer and policy."""

import pytest
import torch
from torch import nn

from dd_plugin.bilevel import BilevelProblem, adam, adamw, hypergradient, sgd
from dd_plugin.bn import convert_bn

METHODS = ("mixed", "reverse", "autograd")
# One example (x, y) in every step, judged on (z, t); steps of size A from theta.
X, Y, Z, T, A, THETA, STEPS = 0.7, 1.1, 1.3, -0.4, 0.2, 0.3, 5


class _Slope(nn.Module):
    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(THETA, dtype=torch.float64))

    def forward(self, x):
        return self.theta * x


def _one(value):
    return torch.tensor([value], dtype=torch.float64)


def _mse(output, target):
    return (output - target).square().mean()


def _same(actual, expected):
    assert float(actual) == pytest.approx(float(expected), rel=1e-11, abs=1e-14)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_momentum(method, nesterov, decay):
    # g = 2 x (theta x - y) + w theta = h theta - q,  h = 2 x^2 + w,  q = 2 x y, and
    #   v' = m v + g,   theta' = theta - a v'                 (Nesterov: theta - a (g + m v')).
    # So (theta, v) goes to M (theta, v) + c in each step, with, for e = 1 (Nesterov: 1 + m),
    # f = m (Nesterov: m^2):
    #   M = [[1 - a h e, -a f], [h, m]],   c = q (a e, -1).
    # After K steps:  M^K (theta, 0) + sum_j M^j c, and by the product rule
    #   d/d theta = (M^K)_00,   d/d v_0 = (M^K)_01,   d/d y_k = (M^(K-1-k) dc)_0, dc = c / y,
    #   d/d p = sum_k (M^(K-1-k) (dM/dp s_k + dc/dp))_0   for p = a, m, w and the state s_k.
    m = 0.8
    h, q = 2 * X * X + decay, 2 * X * Y
    e, f = (1 + m, m * m) if nesterov else (1.0, m)
    M = torch.tensor([[1 - A * h * e, -A * f], [h, m]], dtype=torch.float64)
    c = q * torch.tensor([A * e, -1.0], dtype=torch.float64)
    de, df = (1.0, 2 * m) if nesterov else (0.0, 1.0)
    by = {
        "a": ([[-h * e, -f], [0, 0]], [q * e, 0]),
        "momentum": ([[-A * h * de, -A * df], [0, 1]], [q * A * de, 0]),
        "weight_decay": ([[-A * e, 0], [1, 0]], [0, 0]),
    }
    states = [torch.tensor([THETA, 0.0], dtype=torch.float64)]
    for _ in range(STEPS):
        states.append(M @ states[-1] + c)
    power = torch.linalg.matrix_power
    final = states[-1][0]
    slope = 2 * Z * (final * Z - T)

    problem = BilevelProblem(
        _Slope(),
        optimizer=sgd(m, nesterov=nesterov, weight_decay=decay),
        inner_loss=_mse,
        outer_loss=_mse,
    )
    pairs = [(_one(X), _one(Y))] * STEPS
    result = hypergradient(problem, pairs, (_one(Z), _one(T)), step_size=A, method=method)
    _same(result.outer_loss, (final * Z - T) ** 2)
    _same(result.final.parameters["theta"], final)
    _same(result.final.optimizer["momentum"]["theta"], states[-1][1])
    _same(result.parameters["theta"], slope * power(M, STEPS)[0, 0])
    _same(result.optimizer_state["momentum"]["theta"], slope * power(M, STEPS)[0, 1])
    for k in range(STEPS):
        _same(result.batches[k].labels, slope * (power(M, STEPS - 1 - k) @ c / Y)[0])
    for name, (dM, dc) in by.items():
        expected = sum(
            power(M, STEPS - 1 - k)
            @ (
                torch.tensor(dM, dtype=torch.float64) @ states[k]
                + torch.tensor(dc, dtype=torch.float64)
            )
            for k in range(STEPS)
        )[0]
        if name == "a":
            _same(result.step_size, slope * expected)
        elif name in result.hyperparameters:
            _same(result.hyperparameters[name], slope * expected)
    assert ("weight_decay" in result.hyperparameters) == (decay > 0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [adam, adamw])
def test_adam(method, make):
    # With the inner loss theta x_k the gradient of step k is x_k, whatever theta is:
    #   m_k = sum_{j<=k} (1 - b1) b1^(k-j) x_j / (1 - b1^(k+1))
    #   v_k = sum_{j<=k} (1 - b2) b2^(k-j) x_j^2 / (1 - b2^(k+1))
    #   theta_K = d^K theta_0 - sum_k d^(K-1-k) a m_k / (sqrt(v_k) + eps),   d = 1 - a w,
    # w the decoupled decay of AdamW (0 for Adam). The outer loss is theta_K itself, so
    #   d/d theta_0 = d^K
    #   d/d x_j = - sum_{k>=j} d^(K-1-k) a (m_k / d x_j * D - m_k * x_j v-weight / sqrt(v_k)) / D^2
    # with D = sqrt(v_k) + eps and d sqrt(v_k) / d x_j = v-weight x_j / sqrt(v_k), and with d' = -a
    #   d/d w = - a K d^(K-1) theta_0 + sum_k (K-1-k) d^(K-2-k) a^2 m_k / D.
    b1, b2, eps, w = 0.6, 0.8, 0.05, 0.3 if make is adamw else 0.0
    x = [0.7, -0.4, 1.2, 0.3]
    K, d = len(x), 1 - A * w
    final, by_x, by_a = d**K * THETA, [0.0] * K, -K * w * d ** (K - 1) * THETA
    by_w = -A * K * d ** (K - 1) * THETA
    for k in range(K):
        m_weight = [(1 - b1) * b1 ** (k - j) / (1 - b1 ** (k + 1)) for j in range(k + 1)]
        v_weight = [(1 - b2) * b2 ** (k - j) / (1 - b2 ** (k + 1)) for j in range(k + 1)]
        m = sum(weight * x[j] for j, weight in enumerate(m_weight))
        root = sum(weight * x[j] ** 2 for j, weight in enumerate(v_weight)) ** 0.5
        D, left = root + eps, K - 1 - k
        final -= d**left * A * m / D
        by_a -= d**left * m / D - A * left * w * d ** max(left - 1, 0) * m / D
        by_w += A**2 * left * d ** max(left - 1, 0) * m / D
        for j in range(k + 1):
            slope = (m_weight[j] * D - m * v_weight[j] * x[j] / root) / D**2
            by_x[j] -= d**left * A * slope
    options = {"weight_decay": w} if w else {}
    problem = BilevelProblem(
        _Slope(),
        optimizer=make((b1, b2), eps=eps, **options),
        inner_loss=lambda output, _: output.sum(),
        outer_loss=lambda output, _: output.sum(),
    )
    pairs = [(_one(value), _one(0.0)) for value in x]
    result = hypergradient(problem, pairs, (_one(1.0), _one(0.0)), step_size=A, method=method)
    _same(result.outer_loss, final)
    _same(result.parameters["theta"], d**K)
    _same(result.step_size, by_a)
    if w:
        _same(result.hyperparameters["weight_decay"], by_w)
    for j in range(K):
        _same(result.batches[j].images, by_x[j])


class _Normalised(nn.Module):
    """One BatchNorm feature without affine parameters; theta is there to be trained."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm1d(1, affine=False, momentum=0.25, eps=1e-30).double()
        self.theta = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x):
        return self.theta * self.bn(x)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("statistics", ["learned", "frozen", "constant"])
def test_statistics_that_no_step_moves(method, statistics):
    # Eval mode gives theta (x - m) / sqrt(v); with the mean of it as outer loss and the batch
    # mean u:  d/d m = -theta / sqrt(v),  d/d v = -theta (u - m) / (2 v^1.5).
    # Train mode with the batch's own statistics: the output is theta (x - mean x) / sd, whose mean
    # is 0, so the inner loss mean(output * label) has the gradient r = mean(label (x - mean) / sd)
    # for theta, and theta_1 = 1 - a r.
    model = _Normalised()
    with torch.no_grad():
        model.bn.running_mean.fill_(0.5)
        model.bn.running_var.fill_(4.0)
    how = {"stock_statistics": statistics} if statistics == "constant" else {}
    if statistics != "constant":
        convert_bn(model, statistics)
    problem = BilevelProblem(
        model,
        inner_loss=lambda output, label: (output * label).mean(),
        outer_loss=lambda output, _: output.mean(),
        **how,
    )
    x, label = torch.randn(2, 6, 1, dtype=torch.float64)
    outer = torch.randn(3, 1, dtype=torch.float64)
    result = hypergradient(problem, [(x, label)], (outer, outer), step_size=A, method=method)
    theta = 1 - A * (label * (x - x.mean()) / x.var(correction=0).sqrt()).mean()
    u, m, v = outer.mean(), 0.5, 4.0
    _same(result.outer_loss, theta * (u - m) / v**0.5)
    _same(result.constants["bn.running_mean"], -theta / v**0.5)
    _same(result.constants["bn.running_var"], -theta * (u - m) / (2 * v**1.5))
    assert not result.statistics


@pytest.mark.parametrize("method", METHODS)
def test_momentum_and_corrections_of_tracked_statistics(method):
    # m_K = (1 - p)^K m_0 + sum_k p (1 - p)^(K-1-k) u_k with u_k the mean of batch k and
    # p = m e^s / (1 - m + m e^s); eval mode takes m_K (1 + a) and v_K exp(b). theta is held by a
    # step size of 0 and is 1, and the outer loss is the mean of the output,
    #   L = (u - m_K (1 + a)) / sqrt(v_K exp(b)),  so at s = a = b = 0
    #   dL/da = -m_K / sqrt(v_K),   dL/db = -L / 2,
    #   dL/ds = p (1 - p) (-dm_K/dp / sqrt(v_K) - (u - m_K) dv_K/dp / (2 v_K^1.5)).
    model = convert_bn(_Normalised(), "tracked")
    problem = BilevelProblem(
        model,
        inner_loss=lambda output, label: (output * label).mean(),
        outer_loss=lambda output, _: output.mean(),
    )
    batches = [tuple(torch.randn(2, 6, 1, dtype=torch.float64)) for _ in range(3)]
    outer = torch.randn(3, 1, dtype=torch.float64)
    result = hypergradient(problem, batches, (outer, outer), step_size=0.0, method=method)
    p = 0.25

    def average(start, values):
        # A moving average and its derivative for p.
        value, slope = start, 0.0
        for new in values:
            value, slope = (1 - p) * value + p * new, (1 - p) * slope - value + new
        return value, slope

    m, dm = average(0.0, [float(x.mean()) for x, _ in batches])
    v, dv = average(1.0, [float(x.var()) for x, _ in batches])
    u = float(outer.mean())
    loss = (u - m) / v**0.5
    _same(result.outer_loss, loss)
    _same(result.constants["bn.mean_correction"], -m / v**0.5)
    _same(result.constants["bn.var_correction"], -loss / 2)
    expected = p * (1 - p) * (-dm / v**0.5 - (u - m) * dv / (2 * v**1.5))
    _same(result.constants["bn.momentum_shift"], expected)
    _same(result.statistics["bn.running_mean"], -((1 - p) ** 3) / v**0.5)
    _same(result.statistics["bn.running_var"], -((1 - p) ** 3) * (u - m) / (2 * v**1.5))


@pytest.mark.parametrize("method", METHODS)
def test_linear_regression_in_closed_form(method):
    # Inner loss (theta x - y)^2 with one example x, y:  theta' = theta - a 2 x (theta x - y).
    # With c = 1 - 2 a x^2 and d = 2 a x y:   theta_K = c^K theta_0 + d (1 - c^K) / (1 - c)
    #                                                 = c^K (theta_0 - y / x) + y / x.
    # Outer loss (theta_K z - t)^2, derivative s = 2 z (theta_K z - t) for theta_K, and
    #   d theta_K / d theta_0 = c^K
    #   d theta_K / d a       = K c^(K-1) (-2 x^2) (theta_0 - y/x)        (summed over the steps)
    theta, x, y, z, t, a, steps = THETA, X, Y, Z, T, A, STEPS
    problem = BilevelProblem(_Slope(), inner_loss=_mse, outer_loss=_mse)
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


def test_the_outer_half_of_a_leaf_in_closed_form():
    # theta' = theta - a 2 x (theta x - y), outer loss (theta' z - t)^2. z and t get their partial
    # derivatives 2 theta' (theta' z - t) and -2 (theta' z - t); with x = z = w the inner half of w
    # is 2 w (theta' w - t) dtheta'/dx, dtheta'/dx = -2 a (2 theta x - y).
    theta, y, t, a = THETA, Y, T, A
    w = torch.tensor([X], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([t], dtype=torch.float64, requires_grad=True)
    problem = BilevelProblem(_Slope(), inner_loss=_mse, outer_loss=_mse)
    label = torch.tensor([y], dtype=torch.float64)
    x = w.item()
    after = theta - a * 2 * x * (theta * x - y)
    error = after * x - t
    expected = 2 * after * error + 2 * x * error * -2 * a * (2 * theta * x - y)
    for method in METHODS:
        # As they are, and through a graph.
        for outer in ((w, target), (w * 1, target * 1)):
            result = hypergradient(
                problem, [(w, label)], outer, step_size=a, leaves=[w, target], method=method
            )
            assert float(result.leaves[0]) == pytest.approx(expected, rel=1e-12)
            assert float(result.leaves[1]) == pytest.approx(-2 * error, rel=1e-12)
