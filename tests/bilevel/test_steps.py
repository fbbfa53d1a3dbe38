"""The functions of a step, eager or compiled: one result, one compilation, what failing does."""

import warnings

import pytest
import timm
import torch
from torch import nn
from torch._dynamo.utils import counters

from dd_plugin.bilevel import (
    BilevelProblem,
    Device,
    Host,
    Last,
    RunState,
    adam,
    hypergradient,
    sgd,
    unroll,
)
from dd_plugin.bilevel.steps import Steps
from dd_plugin.bilevel.tracing.compile import CompileWarning
from dd_plugin.bn import convert_bn
from tests.bilevel.problems import convnet, hard_batch, soft_batches, worst_error


@pytest.mark.parametrize(
    ("optimizer", "policy", "how"),
    [(sgd(0.9), None, True), (sgd(0.9), None, "trace"), (adam(), ("tracked", "batch"), "trace")],
)
def test_compiled_equals_the_whole_graph_and_compiles_once(optimizer, policy, how):
    model = convnet(width=2, dropout=0.4, blocks=1)
    if policy is not None:
        convert_bn(model, *policy)
    problem = BilevelProblem(model, optimizer=optimizer, compile=how)
    batches, outer = soft_batches(3), hard_batch()
    compiled = None
    for seed, step_size in ((0, 0.1), (1, torch.rand(3, dtype=torch.float64) * 0.1)):
        options = {"step_size": step_size, "seed": seed}
        result = hypergradient(problem, batches, outer, **options)
        problem.compile = False
        oracle = hypergradient(problem, batches, outer, method="autograd", **options)
        problem.compile = how
        assert worst_error(result, oracle)[0] < 1e-9
        compiled = compiled or dict(problem.compiled)
    # Nothing was traced again for another seed, step size or step, nor compiled again.
    assert problem.compiled == compiled
    assert sorted(key[0] for key in compiled) == ["gradient", "outer", "pull", "sweep", "update"]


class _Residual(nn.Module):
    """timm's stochastic depth around a layer with dropout."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(0.3))
        self.drop = timm.layers.DropPath(0.4)

    def forward(self, x):
        return x + self.drop(self.layer(x))


@pytest.fixture(scope="module", params=[True, "trace"])
def random_problem(request):
    """A compiled problem with two kinds of random layers; the tests share what is compiled."""
    torch.manual_seed(0)
    model = nn.Sequential(_Residual(), _Residual(), nn.Linear(4, 3)).double()
    return BilevelProblem(model, optimizer=adam(eps=1e-3), compile=request.param)


def test_compiled_models_replay_dropout_and_stochastic_depth(random_problem, monkeypatch):
    problem = random_problem
    batches, outer = soft_batches(3, shape=(4,)), hard_batch(shape=(4,))
    options = {"step_size": 0.1, "seed": 4}
    oracle = hypergradient(problem, batches, outer, method="autograd", **options)
    # Two dropouts and two paths; the masks differ from step to step and from seed to seed.
    (_, specs), *_ = problem.probes.values()
    assert len(specs) == 4
    result = hypergradient(problem, batches, outer, **options)
    assert worst_error(result, oracle)[0] < 1e-9
    assert problem.compiling
    other = hypergradient(problem, batches, outer, step_size=0.1, seed=5)
    assert float((other.outer_loss - oracle.outer_loss).abs()) > 1e-6

    # Without the replay, the backward sweep drawing numbers of its own, it would be wrong.
    numbers = BilevelProblem.numbers
    sweep = Steps.sweep

    def spoilt(self, *args):
        other = lambda self, specs, noise: numbers(self, specs, noise + 1)  # noqa: E731
        monkeypatch.setattr(BilevelProblem, "numbers", other)
        try:
            return sweep(self, *args)
        finally:
            monkeypatch.setattr(BilevelProblem, "numbers", numbers)

    monkeypatch.setattr(Steps, "sweep", spoilt)
    result = hypergradient(problem, batches, outer, **options)
    assert worst_error(result, oracle)[0] > 1e-3


def test_nothing_is_compiled_again(random_problem):
    problem = random_problem
    batches, outer = soft_batches(5, shape=(4,)), hard_batch(shape=(4,))

    def work():
        return counters["stats"]["unique_graphs"], counters["aot_autograd"]["total"]

    first = hypergradient(problem, batches[:2], outer, step_size=0.1)
    compiled = work()
    assert len(problem.compiled) >= 5
    assert min(compiled) >= len(problem.compiled) or problem.compile == "trace"
    with torch._dynamo.config.patch(error_on_recompile=True):
        for options in (
            {"seed": 1},
            {"step_size": 0.2},
            {"step_size": torch.rand(5)},
            {"hyperparameters": {"beta1": 0.5}, "initial": first.final},
            {"window": Last(2), "storage": Host(2)},
        ):
            result = hypergradient(problem, batches, outer, **{"step_size": 0.1, **options})
            assert result.finite
        with torch.no_grad():
            hypergradient(problem, [batches[0]] * 7, outer, step_size=0.1)
    assert work() == compiled
    assert problem.compiling


def test_batches_of_two_sizes_draw_numbers_of_two_shapes(monkeypatch):
    # The compiler is left out: this is about what goes into its graphs.
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.4), nn.Linear(4, 3)).double()
    problem = BilevelProblem(model, compile=True)
    first, second = soft_batches(2, shape=(4,))
    batches, outer = [first, tuple(t[:3] for t in second), first], hard_batch(shape=(4,))
    for storage in (Device(), Device(activations=1 << 30)):
        result = hypergradient(problem, batches, outer, step_size=0.3, storage=storage)
        assert problem.compiling
        oracle = hypergradient(problem, batches, outer, step_size=0.3, method="autograd")
        assert worst_error(result, oracle)[0] < 1e-9


def test_what_is_wrong_with_the_loss_is_said_before_anything_is_compiled():
    # Function transforms give a loss that nothing reaches a gradient of 0.
    model = nn.Linear(4, 3).double()
    problem = BilevelProblem(model, inner_loss=lambda x, y: x.detach().sum(), compile=True)
    batches, outer = soft_batches(1, shape=(4,)), hard_batch(shape=(4,))
    with pytest.raises(ValueError, match="the inner loss does not depend on any trainable"):
        hypergradient(problem, batches, outer, step_size=0.1)
    assert problem.compiling
    assert not problem.compiled


class _Branching(nn.Module):
    def forward(self, x):
        return x * 2 if float(x.detach().mean()) > 0 else x


@pytest.mark.parametrize("how", [True, "trace"])
def test_what_cannot_be_compiled_runs_eagerly_with_one_warning(how):
    model = nn.Sequential(*convnet(blocks=1), _Branching())
    problem = BilevelProblem(model, compile=how)
    batches, outer = soft_batches(2), hard_batch()
    with pytest.warns(CompileWarning, match="runs eagerly from here on") as caught:
        result = hypergradient(problem, batches, outer, step_size=0.1)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    oracle = hypergradient(problem, batches, outer, step_size=0.1, method="autograd")
    assert worst_error(result, oracle)[0] < 1e-9


def test_where_warnings_are_errors_the_failure_is_the_cause():
    problem = BilevelProblem(nn.Sequential(*convnet(blocks=1), _Branching()), compile="trace")
    batches, outer = soft_batches(2), hard_batch()
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompileWarning)
        with pytest.raises(CompileWarning) as caught:
            hypergradient(problem, batches, outer, step_size=0.1)
    cause = caught.value.__cause__
    assert cause is not None
    assert type(cause).__name__ in str(caught.value)


class _Raising(nn.Module):
    """Raises something of its own once, at a call of the test's choice."""

    def __init__(self, error, at):
        super().__init__()
        self.error, self.left = error, at

    def forward(self, x):
        self.left -= 1
        if self.left == 0:
            raise self.error
        return x


class _OwnError(Exception):
    pass


@pytest.mark.parametrize("how", [True, "trace"])
@pytest.mark.parametrize(
    "error",
    [
        _OwnError("mine"),
        KeyError("mine"),
        RuntimeError("mine"),
        MemoryError(),
        torch.OutOfMemoryError(),
    ],
)
def test_errors_of_the_user_and_of_memory_come_out_as_they_are(error, how, monkeypatch):
    # The compiler is left out: they come while it is traced.
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
    # The third call is the first that is traced, after the probe and an eager step.
    model = nn.Sequential(nn.Linear(4, 3), _Raising(error, 3)).double()
    problem = BilevelProblem(model, compile=how)
    batches, outer = soft_batches(1, shape=(4,)), hard_batch(shape=(4,))
    with pytest.raises(type(error)) as caught:
        hypergradient(problem, batches, outer, step_size=0.1)
    assert caught.value.args == error.args
    assert problem.compile == problem.compiling == how
    assert hypergradient(problem, batches, outer, step_size=0.1).finite
    assert problem.compiling == how


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_out_of_memory_in_the_compiler_is_not_a_failure_of_compiling(monkeypatch, error, wrapped):
    def compile(graph, **options):
        def run(*args):
            if wrapped:
                raise RuntimeError("backend failed") from error()
            raise error

        return run

    monkeypatch.setattr(torch, "compile", compile)
    problem = BilevelProblem(convnet(blocks=1), compile=True)
    with pytest.raises((error, RuntimeError)):
        hypergradient(problem, soft_batches(1), hard_batch(), step_size=0.1)
    assert problem.compiling is True


@pytest.mark.parametrize("how", [True, "trace"])
def test_a_failure_leaves_the_problem_as_it_was_and_is_not_tried_again(how, monkeypatch):
    model = nn.Sequential(*convnet(blocks=1), _Branching())
    problem = BilevelProblem(model, compile=how)
    batches, outer = soft_batches(2), hard_batch()
    with pytest.warns(CompileWarning) as caught:
        hypergradient(problem, batches, outer, step_size=0.1)
    assert len(caught) == 1
    assert problem.compile == how
    assert problem.compiling is False
    hypergradient(problem, batches, outer, step_size=0.1)  # no second warning
    # Another way of compiling is tried.
    problem.compile = "trace" if how is True else True
    assert problem.compiling == problem.compile


def test_what_fails_in_both_ways_is_no_failure_of_compiling():
    def loss(logits, labels):
        return (logits @ labels).sum()  # shapes that do not fit

    problem = BilevelProblem(
        nn.Linear(4, 3).double(), outer_loss=loss, compile="trace", verify=False
    )
    batches, outer = soft_batches(1, shape=(4,)), soft_batches(1, shape=(4,))[0]
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        hypergradient(problem, batches, outer, step_size=0.1)
    assert problem.compiling == "trace"


def _of_two_layers():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()


def _kind_of(name):
    return name.rpartition(".")[2]


def test_the_order_and_the_form_of_values_per_group_are_not_mixed_up():
    """One traced problem, and values that have the same tensors in other places."""
    model, batches = _of_two_layers(), soft_batches(3, classes=4, shape=(4,))
    outer, a, b = hard_batch(shape=(4,)), torch.tensor(0.1).double(), torch.tensor(0.5).double()
    optimizers = [sgd(0.5, groups=_kind_of), sgd(0.5, groups=lambda name: "all")]
    forms = [
        [
            {"step_size": {"weight": a, "bias": b}},
            {"step_size": {"bias": b, "weight": a}},
            {"step_size": {"bias": a, "weight": b}},
            {"step_size": a, "hyperparameters": {"momentum": {"weight": 0.1, "bias": 0.9}}},
            {"step_size": a, "hyperparameters": {"momentum": {"bias": 0.9, "weight": 0.1}}},
            {"step_size": a},
        ],
        [{"step_size": a}, {"step_size": {"all": b}}, {"step_size": b}],
    ]
    for optimizer, options in zip(optimizers, forms, strict=True):
        traced = BilevelProblem(model, optimizer=optimizer, compile="trace")
        for one in options:
            found = hypergradient(traced, batches, outer, **one)
            expected = hypergradient(
                BilevelProblem(model, optimizer=optimizer), batches, outer, **one
            )
            assert worst_error(found, expected)[0] < 1e-10, one


@pytest.mark.parametrize("optimizer", [sgd(0.5), adam(eps=1e-3)])
def test_a_state_whose_tensors_are_in_another_order_is_the_same_state(optimizer):
    model, batches = _of_two_layers(), soft_batches(3, classes=4, shape=(4,))
    outer = hard_batch(shape=(4,))
    traced = BilevelProblem(model, optimizer=optimizer, compile="trace")
    state = unroll(traced, batches, step_size=0.1).final

    def backwards(tree):
        if not isinstance(tree, dict):
            return tree
        return {name: backwards(tree[name]) for name in reversed(tree)}

    turned = RunState(*(backwards(part) for part in state))
    assert list(turned.parameters) == list(reversed(state.parameters))
    found, expected = (
        hypergradient(traced, batches, outer, step_size=0.1, initial=start)
        for start in (turned, state)
    )
    assert torch.equal(found.outer_loss, expected.outer_loss)
    assert worst_error(found, expected)[0] == 0.0
