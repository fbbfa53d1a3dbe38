"""The words of `dd-plugin evaluate` about its rows: a line on each, and differences between two.

Used by `evaluate`. A difference has the spread over networks, or it is not printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dd_plugin.text import count

if TYPE_CHECKING:
    from dd_plugin.hub.record import Evaluation


def row_line(row: Evaluation) -> str:
    """Return the line on a row that was just measured."""
    images = f"{row.trained_on}, 8-bit" if row.pixels == "png" else row.trained_on
    networks = count(len(row.accuracies), "network")
    return f"{row.model}, {images}: {row.scores} ({networks})"


def eight_bit_differences(name: str, rows: Sequence[Evaluation]) -> list[str]:
    """Return how the 8-bit images of a set differ from the exact ones, a line for each network.

    Networks of one seed are compared. A single network says nothing about a difference, so there
    is no line on it.

    Args:
        name: of the set.
        rows: of one evaluation of it.
    """
    lines = []
    for exact in rows:
        for png in rows:
            if (exact.pixels, png.pixels) != ("exact", "png"):
                continue
            if (exact.model, exact.trained_on) != (png.model, png.trained_on):
                continue
            difference = png.scores.minus(exact.scores)
            if difference is not None:
                lines.append(
                    f"{name}, {exact.model}: 8-bit PNG images against exact ones: {difference} of "
                    f"accuracy ({len(png.accuracies)} pairs of networks)"
                )
    return lines
