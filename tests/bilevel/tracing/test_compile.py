"""A function as a compiled graph: trees in and out, whole and in halves."""

import gc
import weakref

import pytest
import torch

from dd_plugin.bilevel.tracing.compile import CompiledFunction, CompiledHalves
from dd_plugin.bilevel.tracing.way import Way


@pytest.mark.parametrize("how", [True, "trace"])
def test_what_was_traced_with_is_not_held_on_to(monkeypatch, how):
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
    images = torch.ones(3)
    gone = weakref.ref(images)
    function = CompiledFunction(lambda x: x * 2, (images,), Way(how))
    assert torch.equal(function(images), images * 2)
    del images
    gc.collect()
    assert gone() is None


def test_trees_go_in_and_out(monkeypatch):
    # The compiler is left out: this is about tracing and the shape of what comes back.
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)

    def function(tree, list_of):
        return {"sum": tree["a"] + list_of[0], "none": None, "pair": (tree["b"], tree["a"] * 2)}

    args = ({"a": torch.ones(2), "b": torch.zeros(3)}, [torch.full((2,), 5.0)])
    found = CompiledFunction(function, args)(*args)
    assert torch.equal(found["sum"], torch.full((2,), 6.0))
    assert found["none"] is None
    assert torch.equal(found["pair"][1], torch.full((2,), 2.0))


def test_halves_of_a_function_in_place_and_with_trees(monkeypatch):
    # The compiler is left out: this is about tracing and the shape of what comes back.
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)

    def function(tree, late):
        changed = (tree["a"] @ tree["a"]).add_(1.0)
        return {"changed": changed, "none": None}, (changed * late, None)

    a, late = torch.randn(2, 2), torch.randn(2, 2)
    halves = CompiledHalves(function, ({"a": a},), (late,))
    first, kept = halves.first({"a": a})
    assert torch.equal(first["changed"], a @ a + 1.0)
    assert first["none"] is None
    second = halves.second(kept, {"a": a}, late)
    assert torch.equal(second[0], (a @ a + 1.0) * late)
    assert second[1] is None
    assert kept == []
