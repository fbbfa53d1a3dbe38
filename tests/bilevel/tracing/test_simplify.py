import pytest
import torch
from torch import nn
from torch.func import grad
from torch.fx.experimental.proxy_tensor import make_fx

from dd_plugin import convert_bn
from dd_plugin.bilevel import BilevelProblem, adam, hypergradient, sgd
from dd_plugin.bilevel.tracing.passes import clean
from dd_plugin.bilevel.tracing.simplify import simplify


def _simplified(function, *args):
    return simplify(clean(make_fx(function, tracing_mode="fake")(*args)))


def _targets(graph_module):
    nodes = graph_module.graph.nodes
    return [str(node.target) for node in nodes if node.op == "call_function"]


def test_a_value_is_computed_once_and_copies_are_left_out():
    def function(x, y):
        a = torch.tanh(x.clone()) * torch.ones_like(y)
        b = torch.tanh(x.expand(3, 2)) + 1
        return [a * b, a.detach() - b]

    x, y = torch.randn(3, 2), torch.randn(3, 2)
    graph = _simplified(function, x, y)
    assert sorted(_targets(graph)) == [
        f"aten.{name}" for name in ("add.Tensor", "mul.Tensor", "sub.Tensor", "tanh.default")
    ]
    assert all(map(torch.equal, graph(x, y), function(x, y)))


def test_numbers_of_different_types_are_different_values():
    # 1 == 1.0 == True in Python, but not to torch.
    def function(x):
        return [x * 1, x * 1.0, x * True]

    x = torch.arange(3)
    for found, expected in zip(_simplified(function, x)(x), function(x), strict=True):
        assert found.dtype == expected.dtype


def test_what_is_written_into_is_left_alone():
    def function(x):
        first = x * 2
        before = first + 1
        first.view(-1).mul_(3)
        second = x * 2
        copy = second.clone()
        copy.add_(1)
        return [first, before, first + 1, second, copy]

    x = torch.randn(3, 2)
    assert all(map(torch.equal, _simplified(function, x)(x), function(x)))


def test_results_keep_memory_of_their_own():
    def function(x):
        return [x.clone(), x * 2, x * 2]

    x = torch.randn(3)
    found = _simplified(function, x)(x)
    assert len({t.data_ptr() for t in (x, *found)}) == 4


def test_draws_are_not_shared():
    def function(x):
        return torch.rand_like(x) - torch.rand_like(x)

    x = torch.zeros(100)
    assert _simplified(function, x)(x).abs().min() > 0


def test_the_sign_is_taken_of_the_sum():
    def function(x):
        return [(-x).sum((0, 2), keepdim=True), (-x).sum()]

    x = torch.randn(3, 4, 5)
    graph = _simplified(function, x)
    assert all(map(torch.equal, graph(x), function(x)))
    signs = [n for n in graph.graph.nodes if n.target is torch.ops.aten.neg.default]
    assert sorted(n.meta["val"].numel() for n in signs) == [1, 4]


def test_the_sign_is_taken_of_the_smaller_factor():
    def function(x, y, small):
        negative = -x
        return [negative * small, small[0] * negative, (negative * y).sum(), (y * negative).sum(0)]

    x, y, small = torch.randn(3, 4), torch.randn(3, 4), torch.randn(4)
    graph = _simplified(function, x, y, small)
    assert all(map(torch.equal, graph(x, y, small), function(x, y, small)))
    signs = [n for n in graph.graph.nodes if n.target is torch.ops.aten.neg.default]
    assert max(n.meta["val"].numel() for n in signs) == 4


def test_a_product_with_a_number_is_added_in_one_pass():
    def function(a, b, number):
        return [a + number * b, a - a * number, (b + 1) * number + a, a + 0.9 * b, a - 3 * b]

    a, b, number = torch.randn(5, 4), torch.randn(5, 4), torch.tensor(-1.7)
    graph = _simplified(function, a, b, number)
    assert sorted(_targets(graph)) == ["aten.add.Tensor"] * 3 + ["aten.addcmul.default"] * 3
    for found, expected in zip(graph(a, b, number), function(a, b, number), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b, n: [b * n - a],
        lambda a, b, n: [a + b * b],
        lambda a, b, n: [a + b * n, torch.exp(b * n)],
        lambda a, b, n: [torch.add(a, b * n, alpha=2)],
        lambda a, b, n: [a + b.t() * n],
        lambda a, b, n: [a[:1] + b * n],
        lambda a, b, n: [a + (b > 0) * n],
        lambda a, b, n: [a + b * n.double()],
        lambda a, b, n: [a.to(torch.int64) + b.to(torch.int64) * 2],
        lambda a, b, n: [a + b * a.sum(0, keepdim=True)],
        lambda a, b, n: [a.double() + b * n],
    ],
)
def test_other_products_stay(function):
    a, b, number = torch.randn(4, 4), torch.randn(4, 4), torch.tensor(0.3)
    graph = _simplified(function, a, b, number)
    assert "aten.mul.Tensor" in _targets(graph)
    assert "aten.addcmul.default" not in _targets(graph)
    for found, expected in zip(graph(a, b, number), function(a, b, number), strict=True):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("optimizer", [sgd(0.9, weight_decay=1e-3), adam(weight_decay=1e-3)])
def test_the_update_of_an_optimizer_has_few_products(optimizer):
    problem = BilevelProblem(nn.Linear(4, 3).double(), optimizer=optimizer, compile="trace")
    batch = torch.randn(5, 4).double(), torch.arange(5) % 3
    found = hypergradient(problem, [batch] * 2, batch, step_size=0.1)
    graphs = [value.graph for key, value in problem.compiled.items() if key[0] == "update"]
    targets = [str(node.target) for node in graphs[0].graph.nodes]
    assert targets.count("aten.addcmul.default") >= 4
    oracle = hypergradient(problem, [batch] * 2, batch, step_size=0.1, method="autograd")
    for name, expected in oracle.parameters.items():
        torch.testing.assert_close(found.parameters[name], expected)


def test_the_sign_stays_where_it_is_needed():
    def function(x, y, row):
        negative, product = -x, -x * y
        return [negative, negative * y, product, product.sum(), -row * x, (-row * x).sum()]

    x, y, row = torch.randn(3, 4), torch.randn(3, 4), torch.randn(4)
    graph = _simplified(function, x, y, row)
    assert all(map(torch.equal, graph(x, y, row), function(x, y, row)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64])
def test_masks_have_no_sign(dtype):
    def function(x, mask):
        return [-x * mask[0], (-x * mask).sum(), (mask * -x).sum(1)]

    x, mask = torch.randn(3, 4), (torch.arange(12).reshape(3, 4) % 3).to(dtype)
    graph = _simplified(function, x, mask)
    assert all(map(torch.equal, graph(x, mask), function(x, mask)))


@pytest.mark.parametrize(
    ("pool", "replaced"),
    [
        (nn.AvgPool2d(2), True),
        (nn.AvgPool2d((1, 3)), True),
        (nn.AvgPool2d((3, 2), ceil_mode=True), True),
        (nn.AvgPool2d(3, 2, 1), False),
        (nn.AvgPool2d(2, 1), False),
        (nn.AvgPool2d(2, divisor_override=3), False),
        (nn.AvgPool2d(4, ceil_mode=True), False),  # 6 is no multiple of 4
    ],
)
def test_the_gradient_of_pooling_is_a_copy_on_a_gpu(monkeypatch, pool, replaced):
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    function = grad(lambda x: pool(x).pow(3).sum())
    assert "aten.avg_pool2d_backward.default" in _targets(_simplified(function, x))
    monkeypatch.setattr("dd_plugin.bilevel.tracing.simplify.on_gpu", lambda tensors: True)
    graph = _simplified(function, x)
    assert ("aten.avg_pool2d_backward.default" not in _targets(graph)) == replaced
    torch.testing.assert_close(graph(x), function(x), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("policy", ["tracked", "learned", "frozen"])
def test_traced_hypergradients_are_those_of_the_whole_graph(policy):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1), nn.InstanceNorm2d(4, affine=True), nn.Tanh(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3),
    ).double()  # fmt: skip
    convert_bn(model, policy)
    images = torch.randn(6, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(6) % 3
    real = torch.randn(9, 1, 8, 8, dtype=torch.float64), torch.arange(9) % 3
    found = {}
    for name, compile_, method in (("traced", "trace", "mixed"), ("oracle", False, "autograd")):
        problem = BilevelProblem(model, optimizer=sgd(0.9), compile=compile_)
        result = hypergradient(
            problem, lambda _: (images, labels), real, step_size=0.05, steps=4, method=method,
            leaves=[images],
        )  # fmt: skip
        assert problem.compiling == compile_
        found[name] = [result.outer_loss, *result.leaves, *result.constants.values()]
    for a, b in zip(found["traced"], found["oracle"], strict=True):
        assert (a - b).norm() <= 1e-9 * b.norm()


def test_a_converted_network_traces_into_plain_sums():
    # torch's kernels for the variance and for average pooling are the slow ones on CPU.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.AvgPool2d(2))
    problem = BilevelProblem(
        convert_bn(nn.Sequential(model, nn.Flatten(), nn.Linear(18, 3)), "tracked"), compile="trace"
    )
    batch = torch.randn(4, 1, 8, 8), torch.arange(4) % 3
    hypergradient(problem, [batch], batch, step_size=0.1)
    compiled = {key[0]: function for key, function in problem.compiled.items()}
    assert {"gradient", "sweep", "outer"} <= set(compiled)
    slow = ("var_mean", "avg_pool2d")
    for function in compiled.values():
        assert not [t for t in _targets(function.graph) if any(name in t for name in slow)]
