"""From what an image stores to 8 bits per channel, without losing what can be seen in it.

Three things are lost in silence where nobody looks: opacity, channels beyond the third, and gray
levels, as of 12 bits in a 16-bit file. Here opacity is painted on a background, more channels are
refused, and `Tones` takes care of the gray levels.
`pixels` calls this for every image.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from PIL import Image

Array = np.ndarray[Any, Any]

_FEW: Final = 32  # of 256 gray levels, below which it is looked at what was lost
_LOOKED_AT: Final = 16  # images whose values are counted for that
_DIM: Final = 32  # contrast on white below which black may show more

_LOCK: Final = threading.Lock()  # images are decoded in threads

# Numbers of TIFF tags.
_NEW_SUBFILE_TYPE: Final = 254
_SAMPLES_PER_PIXEL: Final = 277
_EXTRA_SAMPLES: Final = 338

# Pillow's names of formats whose 16 bits per channel it cuts to the upper 8.
_CUT: Final = re.compile(r"(?:LA|RGB|RGBA|RGBX|RGBa|CMYK)X*;16[BLN]")


class DepthError(Exception):
    """An image has more bits than those before it.

    Attributes:
        white: the value that is white for that many bits.
    """

    def __init__(self, white: int) -> None:
        super().__init__(white)
        self.white = white


class Tones:
    """How the images of one data set with more than 8 bits become 8 bits.

    All of them are scaled alike, so that brightness stays comparable: ``white`` becomes 255. It is
    the largest value of the smallest number of bits that holds all images, 4095 for 12 bits.

    Args:
        white: the value that becomes 255; None for each image's own.
        is_fixed: whether a larger value is an error; else it is a `DepthError`.

    Attributes:
        deep: whether there was an image to which ``white`` matters.
    """

    def __init__(self, white: int | None = None, *, is_fixed: bool = False) -> None:
        self.white = white
        self.is_fixed = is_fixed
        self.deep = False
        self._range = (255, 0)
        self._was_cut = False
        self._looked_at = 0
        self._values = np.empty(0)

    def scale(self, values: Array) -> Array:
        """Scale whole numbers of up to 16 bits to uint8.

        Raises:
            DepthError: a value is larger than ``white``, which is not fixed.
            ValueError: a value cannot be shown.
        """
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise ValueError(f"its values go from {low} to {high}, which are more than 16 bits")
        white = self.white
        if white is None:
            white = white_of(high)
        elif high > white and self.is_fixed:
            raise ValueError(
                f"its values reach {high}, but the white of this data set is {white}: that of the "
                "training images, or of those that were read first; pass the right `white_level` "
                "to `load_real`, or store all images with 8 bits"
            )
        elif high > white:
            raise DepthError(white_of(high))
        self.deep = True
        wide = values.astype(np.uint32)
        scaled = ((wide * 255 + white // 2) // white).astype(np.uint8)
        self.note(scaled, values)
        return scaled

    def note(self, scaled: Array, values: Array | None) -> None:
        """Remember what was made of an image; ``values`` are None where Pillow has cut them."""
        low, high = int(scaled.min()), int(scaled.max())
        with _LOCK:
            self._range = (min(self._range[0], low), max(self._range[1], high))
            self._was_cut |= values is None
            few = self._range[1] - self._range[0] < _FEW
            if few and values is not None and self._looked_at < _LOOKED_AT:
                self._looked_at += 1
                self._values = np.unique(np.append(self._values, values.astype(np.float64)))

    def check(self) -> None:
        """Raise if next to nothing is left of the images' gray levels.

        Raises:
            ValueError: 8 bits cannot tell apart what the images can.
        """
        low, high = self._range
        levels = high - low + 1
        if levels < 1 or levels > _FEW:
            return
        if self._was_cut:
            raise ValueError(
                f"the color images of 16 bits per channel fill a small part of their range, of "
                f"which {levels} of 256 levels are left; scale them to 8 bits and store them so"
            )
        # Rounding to the nearest of 256 levels is no loss where there were hardly more.
        if len(self._values) > 4 * levels:
            raise ValueError(
                f"the images' values lie between {self._values[0]:.6g} and {self._values[-1]:.6g}, "
                f"a small part of their range, of which {levels} of 256 gray levels are left; "
                "stretch them to the full range first: 0 to 1 for real numbers, 0 to 255 for whole "
                "ones"
            )


def white_of(high: int) -> int:
    """Return the largest value of the number of bits that ``high`` needs, of 8 at least."""
    return int((1 << max(8, high.bit_length())) - 1)


def is_cut(image: Image.Image) -> bool:
    """Return whether Pillow reads only the upper 8 of 16 bits; call it before loading."""
    for tile in getattr(image, "tile", ()):
        arguments: Any = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(isinstance(each, str) and _CUT.fullmatch(each) for each in arguments):
            return True
    return False


def check_channels(image: Image.Image) -> None:
    """Refuse an image of which Pillow reads only some channels, or takes one for opacity.

    Raises:
        ValueError: it is one.
    """
    unnamed = False
    if image.format == "TIFF":
        stored = _tags(image).get(_SAMPLES_PER_PIXEL, 1)
        read = len(image.getbands())
        if image.mode not in ("P", "PA") and stored > read:
            raise ValueError(_too_many(stored))
        # Some other quantity than opacity, if the file does not call it so.
        unnamed = image.mode == "RGBA" and _EXTRA_SAMPLES not in _tags(image)
    if unnamed or image.mode == "RGBX":
        low, high = image.getchannel(3).getextrema()
        if low != high:
            raise ValueError(_too_many(4))


def check_pages(image: Image.Image) -> None:
    """Refuse a TIFF file of several pages; smaller copies of the first one do not count.

    Raises:
        ValueError: it is one.
    """
    count = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
    if count == 1:
        return
    pages = 1
    for number in range(1, count):
        image.seek(number)
        is_copy = _tags(image).get(_NEW_SUBFILE_TYPE, 0) & 1
        pages += not is_copy
    image.seek(0)
    if pages > 1:
        raise ValueError(f"it has {pages} pages, of which one would be used; store them apart")


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """Return the tags of a TIFF file by their numbers."""
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    return tags


def _too_many(channels: int) -> str:
    return (
        f"it has {channels} channels, and images have 1 (gray) or 3 (color); store the three that "
        "are to be used, or an image of mode RGBA where the last one is opacity"
    )


def opaque(image: Image.Image) -> Image.Image:
    """Return the image without opacity, painted on a background; gray stays gray.

    The background is white, or black where on white there would be next to nothing to see, as of a
    white icon. An image that is transparent everywhere shows the colors that it stores.
    """
    if not image.has_transparency_data:
        return image
    if image.mode == "La":
        image = image.convert("LA")
    target = "LA" if image.mode in ("1", "L", "LA") else "RGBA"
    pixels = np.asarray(image.convert(target))
    color = paint(pixels[..., :-1], pixels[..., -1])
    return Image.fromarray(color[..., 0] if target == "LA" else color)


def paint(color: Array, opacity: Array) -> Array:
    """Paint uint8 colors (H, W, C) with opacity (H, W) on a background; see `opaque`."""
    if opacity.min() == 255 or opacity.max() == 0:
        return np.ascontiguousarray(color)
    share = opacity[..., None].astype(np.uint16)
    shown = color * share  # 255 * 255 at most, as are all sums below
    white = ((shown + (255 - share) * np.uint16(255) + 127) // 255).astype(np.uint8)
    if (contrast := _contrast(white)) < _DIM:
        black = ((shown + 127) // 255).astype(np.uint8)
        if _contrast(black) > 4 * contrast:
            return black
    return white


def _contrast(pixels: Array) -> int:
    return int(pixels.max()) - int(pixels.min())
