"""The size of images that differ in size, where the user names none.

Used by `rows`. It is the median of the shorter sides, since images are scaled to cover a square.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Final

from dd_plugin.data.real.pixels import sides_of

# Images whose size is looked at, evenly spaced.
_SAMPLE: Final = 1_000
_MULTIPLE: Final = 8


def median_size(values: Sequence[Any], rows: Sequence[int], largest: int) -> int:
    """Return a height and width for images: a multiple of 8, from 8 to a largest one.

    Args:
        values: the images, as `read_pixels` takes them.
        rows: their numbers, for messages.
        largest: what to stop at.
    """
    shorter = [min(sides_of(value, row)) for value, row in zip(values, rows, strict=True)]
    median = statistics.median(shorter)
    return max(_MULTIPLE, min(_MULTIPLE * round(median / _MULTIPLE), largest))


def sampled_rows(count: int) -> list[int]:
    """Return the rows that stand for all."""
    return list(range(0, count, -(-count // _SAMPLE)))
