"""The figures of a small package that is made up, counted by hand."""

import json

import pytest

from tests.house import figures, graph
from tests.house.__main__ import measured, rows, text_of
from tests.house.source import files_of
from tests.repository import ROOT, repository_file

RUN_OF_SIX = "\n".join(f"    x{n} = {n}  # {{}}" for n in range(6))
SOURCES = {
    "__init__.py": "from toy.low.a import f\n",
    "low/__init__.py": "from toy.low.a import f\n",
    "low/a.py": f'''"""A file.

Its docstring.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toy.low.b import _hidden


def f(self, a, b, c, d, e, g=1, *rest, h=2, **more):
    """Seven of them."""
    found = self._own
{RUN_OF_SIX.format(*"abcdef")}
    return found


def takes_eight(a, b, c, d, e, g, h, i):
    # A comment.

    return f(a, b, c, d, e)


class Thing:
    def __init__(self, *, a, b, c, d, e, g, h):
        self._own = 1
''',
    "low/b.py": f'''from toy.low import a


def _hidden(given):  # type: ignore[no-untyped-def]
    """Nothing."""
{RUN_OF_SIX.format(*"ghijkl")}
    return given._own


def many(*names):
    return takes_eight(1, 2, 3, 4, many(1, 2, 3, 4, 5))
''',
    "hub/__init__.py": "",
    "hub/_card.py": """import torch
from toy.low import f
from toy.low.a import Thing, takes_eight
from toy.low.b import _hidden


def card(record, other):
    torch._C.do()
    return record["source"]["name"], record.get("about"), other["key"], other.get(record)
""",
}


@pytest.fixture
def toy(tmp_path):
    for name, text in SOURCES.items():
        path = tmp_path / "toy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    tests = tmp_path / "tests"
    for name in ("low/test_a.py", "low/test_everything.py", "hub/test_card.py", "other/test_x.py"):
        (tests / name).parent.mkdir(parents=True, exist_ok=True)
        (tests / name).write_text("")
    return tmp_path / "toy", tests


def line(name, text):
    return SOURCES[name].splitlines().index(text) + 1


# Modules that no file of tests is about, and why.
WITHOUT_TESTS = {
    "convnet.py": "exports names under the path that the pages name",
    "bilevel/second_order.py": "exports a name under its first path, which `tests.pins` imports",
    "evaluation/fresh.py": "exports names under their first path, which `tests.pins` imports",
    "hub/card_results.py": "exports names under their first path, which `tests.pins` imports",
}


def test_everything_is_counted(toy):
    folder, tests = toy
    found = figures.places(files_of(folder), folder, tests)
    reached = line("low/b.py", "    return given._own")
    eight = line("low/a.py", "def takes_eight(a, b, c, d, e, g, h, i):")
    last = line(
        "hub/_card.py",
        '    return record["source"]["name"], record.get("about"), '
        + ('other["key"], other.get(record)'),
    )
    positional = "    return takes_eight(1, 2, 3, 4, many(1, 2, 3, 4, 5))"
    assert {name: sorted(where) for name, where in found.items() if where} == {
        "functions over seven parameters": [f"low/a.py:{eight} takes_eight 8"],
        "positional calls with over four arguments": [
            f"low/b.py:{line('low/b.py', positional)} takes_eight 5"
        ],
        "private names used outside of their file": [
            "hub/_card.py:4 _hidden",
            f"low/a.py:{line('low/a.py', '    from toy.low.b import _hidden')} _hidden",
            f"low/b.py:{reached} _own",
        ],
        "private names of other libraries": ["hub/_card.py torch._C.do"],
        "files with private names of other libraries": ["hub/_card.py"],
        "string keys of the record": [
            f"hub/_card.py:{last} record.get('about')",
            f"hub/_card.py:{last} record['source']",
            f"hub/_card.py:{last} record['source']['name']",
        ],
        "string keys where the record is read": [
            f"hub/_card.py:{last} other['key']",
            f"hub/_card.py:{last} record.get('about')",
            f"hub/_card.py:{last} record['source']",
            f"hub/_card.py:{last} record['source']['name']",
        ],
        "imports past a part's __init__": [
            "__init__.py:1 toy.low.a",
            "hub/_card.py:3 toy.low.a",
            "hub/_card.py:4 toy.low.b",
        ],
        "circles of imports": ["toy.low.a toy.low.b"],
        "modules in circles": ["toy.low.a", "toy.low.b"],
        "two-way imports": ["toy.low.a <-> toy.low.b"],
        "type: ignore": ["low/b.py:4"],
        "duplicated runs of six lines": [
            f"low/b.py:{line('low/b.py', '    x0 = 0  # g')} as "
            f"low/a.py:{line('low/a.py', '    x0 = 0  # a')}"
        ],
        "variables named by participles": [
            f"low/a.py:{line('low/a.py', '    found = self._own')} found",
            "low/b.py:4 given",
        ],
        "modules without a test file": ["low/b.py"],
        "test files without a module": ["low/test_everything.py"],
    }


def test_lengths_leave_out_docstrings_comments_and_blank_lines(toy):
    files = {file.path.as_posix(): file for file in files_of(toy[0])}
    lengths = {n.name: files["low/a.py"].length(n) for n in files["low/a.py"].functions()}
    assert lengths == {"f": 9, "takes_eight": 2, "__init__": 2}
    assert figures.long_functions(list(files.values()), 8)[0].endswith(" f 9")
    assert figures.long_files(list(files.values()), 20) == [
        f"low/a.py {len(SOURCES['low/a.py'].splitlines())}"
    ]


def test_what_torch_decides_is_left_out(tmp_path):
    norm = "running_mean, running_var, weight, bias, training, momentum, eps"
    gaps = "input, target, p, margin, weight, size_average, reduce"
    attention = "query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa"
    (tmp_path / "a.py").write_text(f"""
def _batch_norm(input, {norm}): ...
def batch_norm(x, {norm}): ...
def multi_margin_loss({gaps}, reduction): ...
def multi_margin_loss({gaps}, reduced): ...
def scaled_dot_product_attention({attention}): ...
class A(torch.autograd.Function):
    def jvp(ctx, a, b, c, d, e, f, g): return A.apply(a, b, c, d, e)
class B:
    def jvp(ctx, a, b, c, d, e, f, g): return B.apply(a, b, c, d, e)
    def apply(self, a, b, c, d, e): ...
""")
    files = files_of(tmp_path)
    assert figures.many_parameters(files) == [
        "a.py:5 multi_margin_loss 8",
        "a.py:3 batch_norm 8",
        "a.py:10 jvp 8",
    ]
    assert figures.many_positional(files) == ["a.py:10 apply 5"]


@pytest.mark.parametrize(
    ("arrows", "expected"),
    [
        ("ab bc", []),
        ("ab bc ca cd", ["abc"]),
        ("ab ba cd dc bc", ["ab", "cd"]),
        ("ab bc cd db ad ea", ["bcd"]),
        ("aa", []),
    ],
)
def test_circles(arrows, expected):
    edges: dict[str, set[str]] = {}
    for a, b in arrows.split():
        edges.setdefault(a, set()).add(b)
    assert sorted("".join(sorted(circle)) for circle in graph.circles(edges)) == expected


def test_the_table_puts_before_beside_after(toy):
    folder, tests = toy
    files = files_of(folder)
    now = measured(files, figures.places(files, folder, tests))
    assert now["folders"]["hub"] == f"2 files, {len(SOURCES['hub/_card.py'].splitlines())} lines"
    before = json.loads(json.dumps(now))
    before["folders"]["cellar"] = "1 files, 3 lines"
    del before["folders"]["hub"], before["figures"]["lines"]
    table = rows(now, before)
    assert ("cellar/", "1 files, 3 lines", "-") in table
    assert ("hub/", "-", now["folders"]["hub"]) in table
    assert ("files", "6", "6") in table
    assert len({len(row) for row in text_of(table, ("", "before", "after")).splitlines()}) == 1


def test_the_tests_mirror_the_package():
    files = files_of(repository_file("dd_plugin"))
    assert figures.without_module(files, ROOT / "tests") == []
    assert set(figures.without_test(files, ROOT / "tests")) == WITHOUT_TESTS.keys()
