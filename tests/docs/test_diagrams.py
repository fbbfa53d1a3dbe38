"""The figures of the concept pages are what their script draws, in both schemes."""

import importlib
from xml.etree import ElementTree

import pytest

from tests.docs.pages import ROOT

IMAGES = ROOT / "docs" / "images"


@pytest.fixture
def diagrams(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("rendering.diagrams")


def test_every_figure_is_as_drawn(diagrams):
    for name, draw in diagrams.DIAGRAMS.items():
        for suffix, colors in diagrams.COLORS.items():
            drawn = draw(colors).text()
            assert (IMAGES / f"{name}{suffix}.svg").read_text(encoding="utf-8") == drawn


def test_figures_have_a_title_and_nothing_from_elsewhere(diagrams):
    svg = "{http://www.w3.org/2000/svg}"
    for draw in diagrams.DIAGRAMS.values():
        root = ElementTree.fromstring(draw(diagrams.COLORS[""]).text())
        assert root.findtext(f"{svg}title")
        assert not list(root.iter(f"{svg}image"))


def test_a_subscript_ends_where_the_next_word_begins(diagrams):
    text = diagrams.marked("b_0, g & x", 10)
    assert text.startswith('b<tspan font-size="7" dy="3">0</tspan><tspan dy="-3">,</tspan> ')
    assert text.endswith(" g &amp; x")
