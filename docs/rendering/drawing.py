"""What all plots share: one column that is legible on a phone, a title, names beside the data.

A plot is as wide as a phone's page. Its letters are drawn at 11 points of 346 across, which makes
eleven pixels where a page of 390 pixels leaves 358 for it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 4.8  # inches
LETTERS = 11  # points
# Letters of a line of a title: as many as fit in the widest of the fonts that a reader may have.
TITLE_LINE = 44
# Colors that can be told apart by the color-blind (Okabe and Ito, lighter on near-black).
COLORS = {
    "": ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#767676"),
    "-dark": ("#56b4e9", "#e69f00", "#2bbf95", "#e3a3c6", "#8fa8ff", "#f0e442", "#a8a8a8"),
}
MARKERS = "osD^vPX"
INKS = {"": "#333333", "-dark": "#c8ccd4"}
# Of a row with its name above the data, in inches.
ROW = 0.44


def style(suffix: str, salt: str) -> dict[str, Any]:
    """Letters as text, lines and letters in one color, nothing behind them."""
    ink = INKS[suffix]
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys(inked, ink),
        "axes.prop_cycle": mpl.cycler(color=COLORS[suffix]),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.titlelocation": "left",
        "axes.titlesize": LETTERS,
        "grid.color": ink,
        "grid.alpha": 0.15,
        "font.family": "sans-serif",
        "font.size": LETTERS,
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "figure.constrained_layout.use": True,
    }


def colors() -> list[str]:
    """The colors of the style in use."""
    return mpl.rcParams["axes.prop_cycle"].by_key()["color"]


def lines_of(title: str) -> list[str]:
    """A title as lines that fit."""
    return textwrap.wrap(title, TITLE_LINE)


def column(
    title: str, heights: Sequence[float], *, share: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of panels below each other, with heights in inches, under its title."""
    lines = lines_of(title)
    height = sum(heights) + 0.2 * len(lines) + 0.15
    figure, axes = pyplot.subplots(
        len(heights),
        1,
        figsize=(WIDTH, height),
        height_ratios=heights,
        sharex=share,
        squeeze=False,
    )
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=LETTERS + 1, fontweight="bold")
    return figure, list(axes[:, 0])


def named_rows(axis: Axes, names: Sequence[str], values: Sequence[str] = ()) -> None:
    """Rows 0, 1, ... from above, each name over its row; a value at the right."""
    line = axis.get_yaxis_transform()
    for place, name in enumerate(names):
        axis.text(0, place - 0.24, name, transform=line, va="bottom")
    for place, value in enumerate(values):
        axis.text(1, place - 0.24, value, transform=line, va="bottom", ha="right")
    axis.set_ylim(len(names) - 0.55, -0.95)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.grid(visible=False, axis="y")


def name_ends(axis: Axes, ends: Sequence[tuple[float, float, str, str]], height: float) -> None:
    """A name beside the end (x, y, name, color) of every line, moved apart where ends are close.

    Args:
        axis: with its limits and scales set.
        ends: of the lines.
        height: of the axis, in inches.
    """
    gap = 1.2 * LETTERS / 72 / height
    to_axes = axis.transData + axis.transAxes.inverted()
    ordered = sorted(ends, key=lambda end: to_axes.transform(end[:2])[1])
    places = [to_axes.transform(end[:2])[1] for end in ordered]
    for step in range(1, len(places)):
        places[step] = max(places[step], places[step - 1] + gap)
    over = max(places[-1] - 1, 0) if places else 0
    for step in range(len(places) - 1, -1, -1):
        limit = places[step + 1] - gap if step + 1 < len(places) else places[step] - over
        places[step] = min(places[step], limit)
    for (x, y, name, color), place in zip(ordered, places, strict=True):
        axis.annotate(
            name,
            xy=(x, y),
            xytext=(1.04, place),
            textcoords="axes fraction",
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "relpos": (0, 0.5),
                "shrinkA": 0,
                "shrinkB": 2,
            },
        )
