"""The benchmark of products: a short turn of it."""

import pytest

from dd_plugin.private import ONEDNN_LINEAR
from tests.benchmarks import products


@pytest.mark.skipif(ONEDNN_LINEAR is None, reason="this torch has no linear of oneDNN")
def test_every_layout_has_a_row(monkeypatch):
    monkeypatch.setattr(products, "_ROUNDS", 3)
    monkeypatch.setattr(products, "_OPERATIONS_PER_TURN", 1)
    rows = products.measure("a square of 64")
    layouts = [(row["first"], row["second"]) for row in rows]
    assert layouts == [(a, b) for a in products.LAYOUTS for b in products.LAYOUTS]
    for row in rows:
        assert row["sizes"] == [64, 64, 64]
        assert row["ratio"] > 0
        assert min(row["milliseconds"]) > 0
