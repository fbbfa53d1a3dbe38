"""The benchmark of hypergradients: which of its rows a command takes."""

import pytest

from tests.benchmarks import hypergradient

CONVNET = "ConvNet, width 32, 100 images"


def test_some_tools_are_taken_beside_those_that_all_are_compared_to():
    chosen = hypergradient._chosen(CONVNET, ["bf16"])
    assert list(chosen) == ["bf16", "higher", "plain training"]
    assert hypergradient._chosen(CONVNET, None) == hypergradient.tools_of(CONVNET)


def test_a_misspelled_tool_is_told_with_all_that_there_are():
    with pytest.raises(SystemExit, match=r"at first, long runs.*got bf32"):
        hypergradient._chosen(CONVNET, ["bf32"])
