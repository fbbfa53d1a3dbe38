"""Every block of the words is used, every block that is used is there, and values are escaped."""

import ast
import re
from pathlib import Path

import pytest

from dd_plugin.hub.card import words
from dd_plugin.hub.card.markdown import Markdown, code
from dd_plugin.hub.card.words import BLOCKS, cells, joined, one_of, say, table_of_rows

# Without the module that looks them up.
MODULES = [p for p in Path(words.__file__).parent.glob("*.py") if p.name != "words.py"]


def names_in_code():
    """Block names in the card's modules; of those put together, a pattern."""
    names = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(re.escape(node.value))
            elif isinstance(node, ast.JoinedStr):
                texts = (getattr(part, "value", None) for part in node.values)
                names.add("".join(re.escape(t) if isinstance(t, str) else "[a-z_]+" for t in texts))
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "one_of":
                names.add(re.escape(node.args[0].value) + r"\.[a-z0-9_]+")
    return names


def test_every_block_is_used():
    patterns = names_in_code()
    unused = [name for name in BLOCKS if not any(re.fullmatch(p, name) for p in patterns)]
    assert unused == []
    assert len(BLOCKS) > 80


def test_every_block_that_is_named_is_there():
    named = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            name = getattr(getattr(node, "func", None), "id", "")
            if name in ("say", "python", "cells"):
                first = node.args[0]
                choices = [first.body, first.orelse] if isinstance(first, ast.IfExp) else [first]
                named |= {c.value for c in choices if isinstance(c, ast.Constant)}
    assert len(named) > 50
    assert named <= set(BLOCKS)


def test_values_are_escaped_once():
    assert say("title", name="a|b <c>") == r"# a\|b &lt;c&gt;"
    assert say("title", name=code("a_b")) == "# `a_b`"
    assert say("title", name=say("title", name="*")) == r"# # \*"
    assert isinstance(say("title", name="x"), Markdown)
    # A value is not a block.
    assert say("title", name="$name") == r"# \$name"


def test_a_value_that_is_not_given_is_an_error():
    with pytest.raises(KeyError, match="name"):
        say("title")


def test_a_word_of_somebody_else_chooses_no_block():
    assert one_of("window", "last", length=3) == "the last 3"
    for odd in (None, "", "of", "last.x", "../x"):
        assert one_of("window", odd, length=3) == ""


def test_rows_without_a_value_are_left_out():
    empty = dict.fromkeys(["backbones", "head", "starts_from", "batches", "optimizer"], "")
    empty |= dict.fromkeys(["step_sizes", "labels", "loss", "precision", "augmentation"], "")
    table = table_of_rows(
        "recipe.header", "recipe.rows", network="a|b", steps=5, input="", batch_norm="", **empty
    )
    header, _, *rows = table.split("\n")
    assert header.startswith("| training on these images | ")
    assert [re.sub(" +", " ", row) for row in rows] == [r"| network | a\|b |", "| steps | 5 |"]


def test_headers():
    assert cells("results.main_header") == ("trained on", "images", "accuracy", "networks")
    assert cells("recipe.header") == ("training on these images", "")


def test_texts_that_are_empty_are_not_joined():
    assert joined([Markdown("a"), Markdown(), Markdown("b")], ", ") == "a, b"
