"""Return the pixels of one image, whatever it is stored as.

Data sets of the ecosystem hold palette PNGs, CMYK JPEGs, 16-bit TIFFs, arrays and tensors. Here
this ends: `read_pixels` turns whatever stands for an image into uint8, or into a `DataError` that
names the row and the remedy. `sources` calls it for every image of a data set; `tones` sees to it
that opacity, channels and gray levels are not lost on the way.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from dd_plugin.data.real.columns import DataError
from dd_plugin.data.real.tones import Tones, check_channels, check_pages, is_cut, opaque, paint

# What Pillow's readers raise on bytes that are no image, or a damaged one.
_UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError,
    AssertionError, NotImplementedError, RuntimeError, OverflowError, MemoryError, struct.error,
    zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


def read_pixels(
    value: Any,
    row: int,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    tones: Tones | None = None,
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the pixels of one image, whatever it is stored as.

    Files are decoded by Pillow, turned upright by their EXIF tag, and converted as Pillow does:
    palettes become color, CMYK becomes RGB. What is transparent is painted on white, or on black
    where white would leave nothing to see. Gray values of more than 8 bits are scaled to 8.
    Arrays are height by width, by 1 or 3 channels where there is a third dimension; tensors have
    the channels first. Their values are uint8, uint16, other integers from 0 to 255, or real
    numbers from 0 to 1, which are rounded to 8 bits.

    Args:
        value: a `datasets.Image` value, encoded bytes, a path, a Pillow image, array or tensor.
        row: the number of the row, for messages.
        size: (height, width) of the result. An image of another size is scaled (bicubic, with
            antialiasing) until it covers that and its middle is cut out.
        channels: 1 or 3; color is turned into luminance, and gray is repeated. By default 1 for a
            gray image, 3 otherwise.
        tones: how many bits the images of the data set have; by default this one's own number.

    Returns:
        uint8 array (height, width, channels).

    Raises:
        DataError: the image is missing, damaged, or holds something else, with the row.
        DepthError: it has more bits than ``tones`` expects.
    """
    tones = Tones() if tones is None else tones
    try:
        image = opaque(_upright(_open(value, size, tones)))
        gray = image.mode in ("1", "L")
        if channels is None:
            channels = 1 if gray else 3
        if not gray and image.mode != "RGB":
            image = image.convert("RGB")  # not every mode becomes luminance in one step
        mode = "L" if gray or channels == 1 else "RGB"
        if image.mode != mode:
            image = image.convert(mode)
        if size is not None and image.size != (size[1], size[0]):
            image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BICUBIC)
        pixels = np.array(image)
    except _UNREADABLE as error:
        name = value.get("path") if isinstance(value, Mapping) else value
        name = str(name) if isinstance(name, (str, Path)) else ""
        file = f" {name}" if name else ""
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # names an object in memory
            reason = "it has no format that Pillow knows"
        remedy = (
            "replace the file, or move it out of the folder"
            if file and Path(name).is_file()
            else "repair it, or leave the row out, e.g. with dataset.select"
        )
        raise DataError(
            f"row {row}: the image{file} cannot be read ({reason}); {remedy}"
        ) from error
    pixels = pixels.reshape(pixels.shape[0], pixels.shape[1], -1)
    if pixels.shape[2] < channels:
        pixels = np.repeat(pixels, channels, axis=2)
    return pixels


def sides_of(value: Any, row: int) -> tuple[int, int]:
    """Return height and width of an image; of a file they are read without decoding it.

    Those of an image that is to be turned are in the other order.

    Raises:
        DataError: as for `read_pixels`.
    """
    if isinstance(value, Image.Image):
        return value.height, value.width
    if isinstance(value, (Mapping, str, Path, bytes)):
        with contextlib.suppress(*_UNREADABLE):
            image = _open_file(value)
            return image.height, image.width
    height, width = read_pixels(value, row).shape[:2]
    return height, width


def _open(value: Any, size: tuple[int, int] | None, tones: Tones) -> Image.Image:
    """Return a loaded Pillow image of 8 bits per channel."""
    if value is None:
        raise ValueError("it is None")
    if isinstance(value, Image.Image):
        image = value
    elif isinstance(value, Tensor):
        return _from_array(_last(value.detach().cpu()), tones, tuple(value.shape))
    elif isinstance(value, (np.ndarray, list)):
        array = np.asarray(value)
        return _from_array(_first_to_last(array), tones, array.shape)
    else:
        image = _open_file(value)
        check_pages(image)
        if size is not None and image.format == "JPEG":
            # The decoder leaves out what would be scaled away; twice the size keeps it sharp, and
            # a square holds for images that are to be turned.
            image.draft(None, (2 * max(size), 2 * max(size)))
    was_cut = is_cut(image)
    image.load()
    check_channels(image)
    if image.mode == "F":
        return _from_array(np.array(image), tones, image.size[::-1])
    if image.mode.startswith("I"):
        return _from_16_bits(image, tones)
    if was_cut:
        tones.note(np.asarray(image)[..., :3], None)
    return image


def _open_file(value: Any) -> Image.Image:
    path: Any = None
    if isinstance(value, Mapping):
        value, path = value.get("bytes"), value.get("path")
        if value is None and path is not None and not Path(path).is_file():
            # Inside an archive or on the Hub: the library that wrote the path knows how to open it.
            from datasets import Image as ImageFeature

            opened: Image.Image = ImageFeature().decode_example({"bytes": None, "path": path})
            return opened
    if isinstance(value, (str, Path)):
        value, path = None, value
    if value is None and path is None:
        raise ValueError("it has neither bytes nor a path")
    # Pillow keeps the file of several pictures open, so it is read here.
    return Image.open(io.BytesIO(Path(path).read_bytes() if value is None else value))


def _upright(image: Image.Image) -> Image.Image:
    # Asking for the tag costs as much as decoding a small image, so only where there may be one.
    if "exif" in image.info or image.format in ("TIFF", "MPO"):
        return ImageOps.exif_transpose(image)
    return image


def _from_16_bits(image: Image.Image, tones: Tones) -> Image.Image:
    values = np.array(image).astype(np.int64)
    scaled = tones.scale(values)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        opacity = np.where(values == transparent, 0, 255).astype(np.uint8)
        scaled = paint(scaled[..., None], opacity)[..., 0]
    return Image.fromarray(scaled)


def _last(image: Tensor) -> np.ndarray[Any, Any]:
    """Return a tensor, channels first, as an array, channels last."""
    if image.dtype == torch.bfloat16:
        image = image.float()
    array: np.ndarray[Any, Any] = image.numpy()
    return np.moveaxis(array, 0, -1) if array.ndim == 3 else array


def _first_to_last(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return an array, channels last; `pixel_values` have them first after all."""
    if array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4) and array.shape[0] in (1, 3):
        return np.moveaxis(array, 0, -1)
    return array


def _from_array(array: np.ndarray[Any, Any], tones: Tones, shape: tuple[int, ...]) -> Image.Image:
    """Return an image of an array, channels last; ``shape`` is the user's, for messages."""
    if array.ndim not in (2, 3) or array.size == 0:
        raise ValueError(f"its shape is {shape}, not that of an image")
    if array.ndim == 3 and array.shape[2] not in (1, 3):
        # Of an array with its channels first, the last number is its width.
        count = min(array.shape[2], shape[0]) if array.shape[2] > 16 else array.shape[2]
        raise ValueError(
            f"its shape is {shape}, which has {count} channels, and images have 1 (gray) or 3 "
            "(color); give the three that are to be used, or a Pillow image of mode RGBA where the "
            "last one is opacity"
        )
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype == np.uint16:
        array = tones.scale(array)
    elif array.dtype != np.uint8:
        low, high = array.min(), array.max()
        whole = np.issubdtype(array.dtype, np.integer)
        limit = 255 if whole else 1
        if not (low >= 0 and high <= limit):  # false for NaN too
            raise ValueError(
                f"its values go from {low:.6g} to {high:.6g}, but must lie in 0 to {limit}: "
                "give pixels, without a normalization"
            )
        scaled = (array if whole else np.rint(array * 255)).astype(np.uint8)
        if not whole:
            tones.note(scaled, array)
        array = scaled
    return Image.fromarray(
        np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array)
    )
