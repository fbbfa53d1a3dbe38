"""The private names of the engine where torch has them no more."""

import pytest
import torch

from dd_plugin.bilevel import private
from dd_plugin.bilevel.private import TracingUnavailableError, make_fx_of_fakes, operations


def test_operations_that_are_gone_are_left_out():
    known = operations("add.Tensor", "never_was.default", "add.NeverWas")
    assert known == {torch.ops.aten.add.Tensor}


def test_options_that_the_compiler_does_not_know_are_left_out(monkeypatch):
    options = {"layout_optimization": False, "never_was": 1}
    assert private.known_inductor_options(options) == {"layout_optimization": False}
    monkeypatch.setattr(private, "lookup", lambda path: None)
    assert private.known_inductor_options(options) == options


def test_an_option_of_the_tracer_that_is_gone_is_left_out(monkeypatch):
    native = private._make_fx

    def make_fx(f, tracing_mode="real"):
        return native(f, tracing_mode=tracing_mode)

    monkeypatch.setattr(private, "_make_fx", make_fx)
    graph = make_fx_of_fakes(lambda x: [x[0] * 2])([torch.ones(2)])
    assert torch.equal(graph([torch.ones(2)])[0], torch.full((2,), 2.0))
    monkeypatch.setattr(private, "_make_fx", None)
    with pytest.raises(TracingUnavailableError, match="has no make_fx, which tracing needs"):
        make_fx_of_fakes(lambda x: x)
