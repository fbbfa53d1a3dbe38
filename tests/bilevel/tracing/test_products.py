"""Products by oneDNN: what they give, which are left alone, and when they are taken."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dd_plugin import bilevel
from dd_plugin.bilevel.tracing import products
from dd_plugin.bilevel.tracing.compile import Traced, make_graph
from dd_plugin.bilevel.tracing.way import Way
from dd_plugin.private import ONEDNN_LINEAR

pytestmark = pytest.mark.skipif(ONEDNN_LINEAR is None, reason="this torch has no linear of oneDNN")

# What a matrix of R rows and C columns may be in memory.
LAYOUTS = {
    "rows": lambda r, c: torch.randn(r, c),
    "columns": lambda r, c: torch.randn(c, r).t(),
    "rows with gaps": lambda r, c: torch.randn(r, c + 3)[:, :c],
    "columns with gaps": lambda r, c: torch.randn(c, r + 3).t()[:r],
    "one place of each kernel": lambda r, c: torch.randn(r, c, 9)[:, :, 4],
    "one row again and again": lambda r, c: torch.randn(1, c).expand(r, c),
    "one column again and again": lambda r, c: torch.randn(r, 1).expand(r, c),
}


@pytest.fixture(autouse=True)
def any_processor(monkeypatch):
    """Take oneDNN whatever the processor, and for small products too."""
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(products, "_WORTH_IT", 1)
    monkeypatch.setattr(products, "_LEAST_SIDE", 1)


def taken(graph):
    return [node for node in graph.graph.nodes if node.target is ONEDNN_LINEAR]


def multiplied(function, *tensors):
    graph = make_graph(lambda tensors: [function(*tensors)], list(tensors))
    products.multiply_by_onednn(graph)
    return graph


@given(
    first=st.sampled_from(list(LAYOUTS)),
    second=st.sampled_from(list(LAYOUTS)),
    sizes=st.tuples(*[st.integers(1, 9)] * 3),
    biased=st.booleans(),
)
def test_a_product_is_the_same_in_every_layout(first, second, sizes, biased):
    rows, inner, columns = sizes
    a, b = LAYOUTS[first](rows, inner), LAYOUTS[second](inner, columns)
    bias = torch.randn(columns)
    function = torch.addmm if biased else lambda _, a, b: a @ b
    graph = multiplied(function, bias, a, b)
    assert len(taken(graph)) == 1
    found, expected = graph([bias, a, b])[0], function(bias, a, b)
    assert found.shape == expected.shape
    assert found.stride() == expected.stride()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "bias",
    [
        torch.randn(14)[::2],
        torch.randn(1).expand(7),
        torch.randn(7, 9)[:, 4],
        torch.randn(9)[2:],
        torch.randn(1)[0].expand(7),
    ],
    ids=["every second", "one number", "a column", "a part", "no dimension"],
)
def test_onednn_gets_what_is_added_without_gaps(bias):
    """It does not look at strides: it would read what lies behind."""
    a, b = torch.randn(8, 5), torch.randn(5, 7)
    graph = multiplied(torch.addmm, bias, a, b)
    assert len(taken(graph)) == 1
    torch.testing.assert_close(graph([bias, a, b])[0], torch.addmm(bias, a, b))


@pytest.mark.parametrize("side", range(3))
def test_what_is_almost_a_vector_is_left_alone(side, monkeypatch):
    monkeypatch.setattr(products, "_LEAST_SIDE", 4)
    sides = [9, 9, 9]
    for length, count in ((4, 1), (3, 0)):
        sides[side] = length
        rows, inner, columns = sides
        graph = multiplied(
            lambda a, b: a @ b, torch.randn(rows, inner), torch.randn(inner, columns)
        )
        assert len(taken(graph)) == count


@pytest.mark.parametrize("layout", LAYOUTS)
def test_onednn_gets_weights_without_gaps(layout):
    """It takes others a thousand times as slowly."""
    graph = multiplied(lambda a, b: a @ b, torch.randn(8, 5), LAYOUTS[layout](5, 7))
    (node,) = taken(graph)
    weight = node.args[1].meta["val"]
    assert weight.shape == (7, 5)
    assert weight.stride() in ((5, 1), (1, 7))


@pytest.mark.parametrize(
    ("function", "tensors"),
    [
        pytest.param(
            lambda a, b: a @ b,
            (torch.randn(4, 3).double(), torch.randn(3, 2).double()),
            id="float64",
        ),
        pytest.param(
            lambda a, b: a @ b,
            (torch.randn(4, 3).bfloat16(), torch.randn(3, 2).bfloat16()),
            id="bfloat16",
        ),
        pytest.param(lambda a, b: a @ b, (torch.randn(0, 3), torch.randn(3, 2)), id="no rows"),
        pytest.param(lambda a, b: a @ b, (torch.randn(4, 0), torch.randn(0, 2)), id="empty sum"),
        pytest.param(
            lambda a, b: a @ b, (torch.randn(2, 4, 3), torch.randn(2, 3, 2)), id="batched"
        ),
        pytest.param(
            torch.addmm,
            (torch.randn(4, 2), torch.randn(4, 3), torch.randn(3, 2)),
            id="a matrix is added",
        ),
        pytest.param(
            torch.addmm,
            (torch.randn(1), torch.randn(4, 3), torch.randn(3, 2)),
            id="one number is added",
        ),
        pytest.param(
            lambda c, a, b: torch.addmm(c, a, b, alpha=2.0),
            (torch.randn(2), torch.randn(4, 3), torch.randn(3, 2)),
            id="a factor",
        ),
    ],
)
def test_other_products_are_left_alone(function, tensors):
    graph = multiplied(function, *tensors)
    assert not taken(graph)
    torch.testing.assert_close(graph(list(tensors))[0], function(*tensors))


def test_small_products_are_left_alone(monkeypatch):
    monkeypatch.setattr(products, "_WORTH_IT", 4 * 3 * 2 + 1)
    assert not taken(multiplied(lambda a, b: a @ b, torch.randn(4, 3), torch.randn(3, 2)))
    assert taken(multiplied(lambda a, b: a @ b, torch.randn(5, 3), torch.randn(3, 2)))


def test_nothing_is_taken_on_other_processors(monkeypatch):
    monkeypatch.setattr(products, "onednn_is_faster", lambda: False)
    assert not taken(multiplied(lambda a, b: a @ b, torch.randn(4, 3), torch.randn(3, 2)))


@pytest.mark.parametrize(("how", "count"), [("trace", 1), (True, 0)])
def test_the_compiler_gets_none(how, count):
    """It takes them for weights that never change only."""
    args = (torch.randn(4, 3), torch.randn(3, 2))
    assert len(taken(Traced(torch.mm, args, Way(how)).graph)) == count


@pytest.mark.parametrize("activations", [0, 1 << 30], ids=["computed again", "kept"])
@pytest.mark.parametrize(
    "how", ["trace", pytest.param(True, marks=pytest.mark.slow)], ids=["traced", "compiled"]
)
def test_a_hypergradient_is_that_of_mkl(how, activations, monkeypatch):
    def hypergradient():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(12, 9), nn.LayerNorm(9), nn.GELU(), nn.Linear(9, 4)
        )
        problem = bilevel.BilevelProblem(model, optimizer=bilevel.adam(), compile=how)
        batch = torch.randn(6, 3, 2, 2), torch.arange(6) % 4
        result = bilevel.hypergradient(
            problem,
            [batch] * 3,
            (torch.randn(8, 3, 2, 2), torch.arange(8) % 4),
            step_size=0.05,
            storage=bilevel.Device(activations=activations),
        )
        graphs = [function.graph for function in problem.compiled.values()]
        return result.batches[0].images, sum(len(taken(graph)) for graph in graphs)

    found, by_onednn = hypergradient()
    monkeypatch.setattr(products, "onednn_is_faster", lambda: False)
    expected, by_mkl = hypergradient()
    # The compiler takes oneDNN's products for weights that never change only.
    assert by_onednn > 10 if how == "trace" else by_onednn == 0
    assert by_mkl == 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


class TestProcessor:
    @pytest.fixture(autouse=True)
    def asked_anew(self, monkeypatch):
        monkeypatch.undo()
        products.onednn_is_faster.cache_clear()
        yield
        products.onednn_is_faster.cache_clear()

    @pytest.mark.parametrize(
        ("maker", "capability", "is_faster"),
        [
            ("AuthenticAMD", "AVX512", True),
            ("AuthenticAMD", "AVX2", False),
            ("GenuineIntel", "AVX512", False),
            (None, "AVX512", False),
        ],
    )
    def test_only_amd_with_wide_registers(self, maker, capability, is_faster, monkeypatch):
        monkeypatch.setattr(products, "_maker", lambda: maker)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
        monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
        assert products.onednn_is_faster() is is_faster

    @pytest.mark.parametrize("missing", ["mkldnn", "mkl"])
    def test_not_without_either_library(self, missing, monkeypatch):
        monkeypatch.setattr(products, "_maker", lambda: "AuthenticAMD")
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
        monkeypatch.setattr(getattr(torch.backends, missing), "is_available", lambda: False)
        assert products.onednn_is_faster() is False

    def test_not_in_a_torch_without_the_operation(self, monkeypatch):
        monkeypatch.setattr(products, "ONEDNN_LINEAR", None)
        assert products.onednn_is_faster() is False

    def test_a_machine_that_does_not_tell_its_maker(self, monkeypatch):
        def refuse(*_args):
            raise PermissionError

        monkeypatch.setattr(products.Path, "read_text", refuse)
        assert products._maker() is None
