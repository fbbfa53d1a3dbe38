"""The sizes in which images of a size can be stored, by their parametrization.

Used by `parametrization`, and by the checks of settings, which need no torch for it.
"""

from __future__ import annotations

from typing import Final

# Parametrizations of images that are stored smaller, and of those that are sums of levels.
UPSAMPLED: Final = ("upsampled", "upsampled_pyramid")
PYRAMIDS: Final = ("pyramid", "upsampled_pyramid")
# The least rows and columns of the coarsest level by default.
_COARSEST: Final = 4


def check_factor(height: int, width: int, factor: int) -> None:
    """Check that images of a size can be stored that many times smaller.

    Raises:
        ValueError: the size is not a multiple of the factor.
    """
    if factor < 1 or height % factor or width % factor:
        raise ValueError(
            f"`factor` must divide the size of the images, {height} x {width}, got {factor}; "
            'choose another factor or parametrization="pixels"'
        )


def level_sizes(height: int, width: int, levels: int | None = None) -> list[tuple[int, int]]:
    """Return heights and widths of the levels of a `Pyramid`, the coarsest first.

    Args:
        height: of the images.
        width: of the images.
        levels: how many; by default all that have at least four rows and columns.

    Raises:
        ValueError: the images cannot be halved so often.
    """
    sizes = [(height, width)]
    least = _COARSEST if levels is None else 1
    while (levels is None or len(sizes) < levels) and min(sizes[0]) // 2 >= least:
        sizes.insert(0, ((sizes[0][0] + 1) // 2, (sizes[0][1] + 1) // 2))
    if levels is not None and len(sizes) != levels:
        raise ValueError(
            f"`pyramid_levels` must be from 1 to {len(sizes)} for images of {height} x {width}, "
            f"got {levels}; leave it out for {len(level_sizes(height, width))}"
        )
    return sizes
