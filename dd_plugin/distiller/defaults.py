"""The network of a run that names none, by the size of its images and the number of its classes.

Used by `architectures`. The benchmark ConvNet of the field with BatchNorm: each block halves the
images, and four rows and columns are left, as in the papers on 32x32 and 64x64. The width is what a
processor can train in minutes. The digits are one case of the rule.
"""

from __future__ import annotations

import math
from typing import Any, Final

_WIDTHS: Final = (32, 64, 128)
_FEWEST_BLOCKS, _MOST_BLOCKS = 2, 5
_ROWS_LEFT: Final = 4


def default_arguments(shape: tuple[int, int, int], num_classes: int) -> dict[str, Any]:
    """Return the arguments of `timm/dd_convnet`.

    Args:
        shape: channels, height and width of the images.
        num_classes: how many; there are no fewer channels than classes, up to 128.
    """
    side = min(shape[1:])
    blocks = round(math.log2(side / _ROWS_LEFT))
    # A block needs two rows and columns.
    possible = max(1, int(math.log2(side)))
    return {
        "width": next((width for width in _WIDTHS if width >= num_classes), _WIDTHS[-1]),
        "depth": min(max(blocks, _FEWEST_BLOCKS), _MOST_BLOCKS, possible),
        "norm_layer": "batchnorm2d",
    }
