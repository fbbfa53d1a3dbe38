"""The curves of a run as SVG: what is drawn, and logs that are hard to draw."""

import math
import re
from xml.etree import ElementTree

import pytest

from dd_plugin.distiller.svg_curve import curves


def loss(step, value):
    return {"step": step, "outer_loss": value}


def accuracy(step, mean, std=0.02):
    return {"step": step, "eval_accuracy_mean": mean, "eval_accuracy_std": std}


def numbers(drawing):
    return [float(n) for n in re.findall(r"(?<![\w#])-?\d+\.\d(?!\d)", drawing)]


def test_loss_and_accuracy_are_two_drawings():
    history = [loss(1, 2.0), loss(2, 1.5), accuracy(2, 0.5), accuracy(4, 0.75)]
    (first, losses), (second, accuracies) = curves(history)
    assert (first, second) == ("Outer loss", "Accuracy, %")
    assert accuracies.count("<circle") == 2
    assert ">60<" in accuracies  # in percent
    for drawing in (losses, accuracies):
        ElementTree.fromstring(drawing)


def test_higher_values_are_higher_up():
    ((_, drawing),) = curves([accuracy(0, 0.2), accuracy(10, 0.8)])
    low, high = (float(y) for y in re.findall(r'cy="([\d.]+)"', drawing))
    assert high < low


@pytest.mark.parametrize(
    "history",
    [
        [loss(1, 3.0)],
        [loss(0, 0.0), loss(0, 0.0)],
        [loss(1, math.nan), loss(2, 1e30), loss(3, -1e-30)],
        [loss(step, 1 / (step + 1)) for step in range(10_000)],
        [loss(2_000_000, 1.0), loss(3_000_000, 1.0)],
        [accuracy(1, 0.0, 0.0), accuracy(2, 0.0, None)],
        [accuracy(1, 1.0, 0.5)],
    ],
    ids=["one", "zeros", "extremes", "many", "late", "nothing right", "wide"],
)
def test_any_log_gives_a_small_drawing_within_its_frame(history):
    ((_, drawing),) = curves(history)
    ElementTree.fromstring(drawing)
    assert len(drawing) < 20_000
    assert all(-5 <= number <= 360 for number in numbers(drawing))


@pytest.mark.parametrize("history", [[], [{"step": 1}], [loss(1, math.inf)]])
def test_nothing_to_draw(history):
    assert curves(history) == []
