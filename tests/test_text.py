"""Errors in one line, accuracies, counts and tables."""

import pytest

from dd_plugin.text import (
    columns,
    count,
    described,
    first_line,
    percent,
    suggestion,
    table,
    without_secrets,
)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  one\ntwo"), "one"),
        (ValueError(), "ValueError"),
        (ValueError(" \n"), "ValueError"),
    ],
)
def test_first_line(error: Exception, line: str) -> None:
    assert first_line(error) == line


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("for https://a.example/x?X-Sig=1&b=2: no", "for https://a.example/x no"),
        ("(https://a.example/x?sig=1)", "(https://a.example/x)"),
        ("'https://a.example/x#sig=1'", "'https://a.example/x'"),
        ("https://me:word@a.example/x", "https://a.example/x"),
        ("token hf_abcdefghijklmn is", "token hf_... is"),
        ("what? nothing", "what? nothing"),
    ],
)
def test_messages_open_no_doors(text, left):
    assert without_secrets(text) == left
    assert first_line(ValueError(text)) == left


def test_an_error_that_says_too_little_is_named():
    assert described(KeyError("x")) == "KeyError: 'x'"
    assert described(ValueError("x is bad")) == "x is bad"


def test_accuracies_and_counts():
    assert percent(0.9304, 0.0106) == "93.0 ± 1.1 %"
    assert (percent(0.5), percent(1.0, 0.0)) == ("50.0 %", "100.0 ± 0.0 %")
    assert [count(n, "network") for n in (0, 1, 1078)] == [
        "0 networks",
        "1 network",
        "1,078 networks",
    ]
    assert count(2, "class") == "2 classes"
    assert count(1078) == "1,078"
    assert [count(value, "image") for value in (True, -1, 2.0, None)] == [""] * 4


def test_tables_line_up():
    assert table(("a", "long"), [("longer", "b")]).splitlines() == [
        "| a      | long |",
        "|--------|------|",
        "| longer | b    |",
    ]
    assert table(("a", "long"), [("longer", "7")], "lr").splitlines() == [
        "| a      | long |",
        "|--------|-----:|",
        "| longer |    7 |",
    ]
    assert table(("a", "b"), [("", "7")], "lr", padded=False).splitlines() == [
        "| a | b |",
        "|---|---:|",
        "|  | 7 |",
    ]
    assert columns(["class", "layers"], [("BatchNorm2d", 2), ("B", 11)]) == [
        "  class        layers",
        "  -----------  ------",
        "  BatchNorm2d       2",
        "  B                11",
    ]
    assert columns(["class"], []) == ["  none"]


def test_suggestions() -> None:
    assert suggestion("--sed", ["--seed", "--step"]) == "did you mean --seed?"
    assert suggestion("q", ["--seed"]) == ""
    assert suggestion("fild", iter(["fold", "flip"]), quoted=True) == "did you mean 'fold'?"
