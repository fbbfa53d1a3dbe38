"""The way back to what batches, labels and step sizes were made from."""

import pytest
import torch
from torch import nn

from dd_plugin.bilevel import BilevelProblem, Last, Random, hypergradient, sgd
from dd_plugin.bn import convert_bn
from tests.bilevel.problems import convnet, hard_batch, relative_error, soft_batches
from tests.bilevel.runs import run


@pytest.mark.parametrize("as_function", [False, True])
def test_leaves_get_what_autograd_would_give_them(as_function):
    problem = BilevelProblem(convert_bn(convnet(), "tracked"), optimizer=sgd(0.5))
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


STEPS = 4


def model():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


@pytest.mark.parametrize("method", ["mixed", "reverse", "autograd"])
def test_a_leaf_that_nothing_depends_on_is_an_error_that_names_it(method):
    images, unused, alpha = (
        torch.rand(shape, dtype=torch.float64, requires_grad=True) for shape in ((6, 4), (2,), ())
    )
    labels = torch.zeros(6, dtype=torch.int64)
    leaves = [images, unused, alpha]

    def run(**options):
        outer = hard_batch(shape=(4,))
        return hypergradient(
            model(), [(images * 2, labels)], outer, leaves=leaves, method=method, **options
        )

    with pytest.raises(ValueError, match=r"`leaves\[1\]`, a tensor of shape \(2,\)"):
        run(step_size=alpha)
    with pytest.raises(ValueError, match=r"`leaves\[1\]`"):
        run(step_size=alpha.detach())
    result = run(step_size=alpha, allow_unused=True)
    assert torch.equal(result.leaves[1], torch.zeros(2, dtype=torch.float64))
    assert float(result.leaves[2].abs()) > 0
    # A run that has diverged says so, and nothing else.
    assert not run(step_size=torch.tensor(float("inf"))).finite


@pytest.mark.parametrize("as_function", [False, True])
def test_a_leaf_of_steps_outside_of_the_window_is_used(as_function):
    images = [torch.rand(6, 4, dtype=torch.float64, requires_grad=True) for _ in range(STEPS)]
    labels, weights = torch.zeros(6, dtype=torch.int64), model()
    start = {"0.weight": weights[0].weight.detach().clone().requires_grad_()}
    leaves = [*images, *start.values()]
    batches = [(x * 1, labels) for x in images]
    for window in (Last(1), Random(1), None):
        result = hypergradient(
            weights,
            (lambda k: (images[k] * 1, labels)) if as_function else batches,
            hard_batch(shape=(4,)),
            step_size=0.1,
            steps=STEPS,
            window=window,
            parameters=start,
            leaves=leaves,
        )
        touched = [float(leaf.abs().sum()) > 0 for leaf in result.leaves]
        inside = [result.start <= k < result.stop for k in range(STEPS)]
        assert touched == [*inside, result.start == 0]


def test_step_sizes_in_a_list_reach_their_leaves():
    alpha = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    problem = convnet()
    result = run(problem=problem, step_size=[alpha, 2 * alpha, 0.3][:2], leaves=[alpha])
    assert (
        relative_error(result.leaves[0], result.step_size @ torch.tensor([1.0, 2.0]).double())
        < 1e-14
    )
    assert float(result.leaves[0]) != 0
