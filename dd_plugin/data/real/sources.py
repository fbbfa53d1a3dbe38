"""From a data set to pixels: its rows, undecoded, and what decodes them to one shape.

`TableSource` and `SequenceSource` give the labels and, by the numbers of the rows, the images of a
data set with random access, as it holds them. `Reader` makes one uint8 tensor of them with
`pixels`. `Options` are what the user asked for. `rows` and `streams` build on this.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from dd_plugin.data.real.classes import as_names
from dd_plugin.data.real.columns import Columns, DataError, MissingSplitError
from dd_plugin.data.real.pixels import read_pixels
from dd_plugin.data.real.tones import Tones

CHUNK: Final = 256  # rows that are read at a time

_SMALL_FILE = 8 << 10  # bytes below which decoding is mostly Python, and threads only cost


class Options:
    """The checked options of `RealData.from_dataset` that say how images are kept."""

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] | None,
        channels: int | None,
        device: torch.device,
        max_bytes: int,
        buffer_size: int,
        seed: int,
        white_level: int | None = None,
        largest_size: int | None = None,
    ) -> None:
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        if size is not None:
            if (
                not isinstance(size, (tuple, list))
                or len(size) != 2
                or not all(isinstance(n, int) and n > 0 for n in size)
            ):
                raise ValueError(
                    f"`image_size` must be a positive number or (height, width), got {image_size!r}"
                )
            size = (size[0], size[1])  # a list from a configuration file
        if channels not in (None, 1, 3):
            raise ValueError(f"`channels` must be 1 or 3, got {channels!r}")
        for name, number in (("max_bytes", max_bytes), ("buffer_size", buffer_size)):
            if number < 1:
                raise ValueError(f"`{name}` must be at least 1, got {number}")
        if white_level is not None and not 1 <= white_level <= 65535:
            raise ValueError(f"`white_level` must lie in 1 to 65535, got {white_level}")
        self.size: tuple[int, int] | None = size
        self.largest_size = largest_size
        self.sizes_differ = False  # after reading: whether a size was chosen for that
        self.channels = channels
        self.device = device
        self.max_bytes = max_bytes
        self.buffer_size = buffer_size
        self.seed = seed
        self.white_level = white_level  # after reading: the one that was used, if any was
        self.white_so_far = 255  # by the images that were read


class ColorError(Exception):
    """A color image among gray ones."""


class SizesError(DataError):
    """Images differ in size, and none was asked for."""


def is_a(dataset: Any, kind: str) -> bool:
    """Return whether an object is of a class of `datasets`, without importing it."""
    return any(
        base.__name__ == kind and base.__module__.partition(".")[0] == "datasets"
        for base in type(dataset).__mro__
    )


def one_split(dataset: Any, split: str | None) -> Any:
    """Return the split that is asked for, or the only one; without a name that is `train`."""
    if is_a(dataset, "DatasetDict") or is_a(dataset, "IterableDatasetDict"):
        known = ", ".join(map(repr, dataset))
        if split is None and len(dataset) == 1:
            return next(iter(dataset.values()))
        if split is None:
            raise DataError(f"`split` must say which part of the data set to take: {known}")
        if split not in dataset:
            raise MissingSplitError(f"there is no split {split!r}; there are {known or 'none'}")
        return dataset[split]
    if split is not None:
        name = getattr(dataset, "split", None)
        # A slice that was stored, "train[:1000]", is what there is of its split.
        names = {"train"} if name is None else {str(name), str(name).partition("[")[0]}
        if split not in names:
            described = (
                "without a name, which counts as 'train'" if name is None else f"{str(name)!r}"
            )
            raise MissingSplitError(
                f"there is no split {split!r}: the data set is a single split already, "
                f"{described}; ask for that one, or give the DatasetDict"
            )
    return dataset


class TableSource:
    """Rows of a `datasets.Dataset`."""

    labels_are_cheap = True

    def __init__(self, dataset: Any, columns: Columns) -> None:
        self.class_names = columns.class_names
        feature = dataset.features[columns.image]
        # Images and bytes as Arrow has them, undecoded; arrays through NumPy.
        encoded = type(feature).__name__ in ("Image", "Value")
        self._images = dataset.select_columns([columns.image]).with_format(
            "arrow" if encoded else "numpy"
        )
        self._labels = dataset.select_columns([columns.label]).with_format("arrow")
        self._columns = columns
        self._encoded = encoded

    def __len__(self) -> int:
        return len(self._labels)

    def labels(self) -> list[Any]:
        """Return all labels."""
        return self._labels[:][self._columns.label].to_pylist()

    def images(self, rows: Sequence[int]) -> list[Any]:
        """Return the images of some rows, undecoded."""
        key = slice(rows.start, rows.stop) if isinstance(rows, range) else list(rows)
        column = self._images[key][self._columns.image]
        return column.to_pylist() if self._encoded else list(column)


class SequenceSource:
    """Rows of a map-style data set of (image, label)."""

    labels_are_cheap = False

    def __init__(self, sequence: Any) -> None:
        if (
            isinstance(sequence, (str, bytes, Mapping, Tensor))
            or not hasattr(sequence, "__getitem__")
            or not hasattr(sequence, "__len__")
        ):
            raise TypeError(
                "`dataset` must be a datasets.Dataset, DatasetDict or IterableDataset, or a "
                f"sequence of (image, label), got {type(sequence).__name__}"
            )
        classes = getattr(sequence, "classes", None)  # as torchvision's data sets name them
        self.class_names = as_names(classes) if isinstance(classes, (list, tuple)) else None
        self._sequence = sequence
        self._known: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._sequence)

    def labels(self) -> list[Any]:
        """Return all labels; those of images that were read are known already."""
        for row in range(len(self)):
            if row not in self._known:
                self._item(row)
        return [self._known[row] for row in range(len(self))]

    def images(self, rows: Sequence[int]) -> list[Any]:
        """Return the images of some rows, as the sequence has them."""
        return [self._item(row) for row in rows]

    def _item(self, row: int) -> Any:
        item = self._sequence[row]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise DataError(
                f"row {row} of the sequence must be (image, label), got {type(item).__name__}"
                + (f" of length {len(item)}" if isinstance(item, (tuple, list)) else "")
            )
        image, label = item
        if isinstance(label, (Tensor, np.ndarray, np.generic)):
            label = label.tolist()
        self._known[row] = label
        return image


Source = TableSource | SequenceSource


class Reader:
    """Decodes images to one size and number of channels.

    Args:
        first: the first image, which decides what the options leave open.
        options: those of the user.
    """

    def __init__(self, first: Any, options: Options) -> None:
        is_fixed = options.white_level is not None
        self._tones = Tones(options.white_level or options.white_so_far, is_fixed=is_fixed)
        pixels = read_pixels(
            first, 0, size=options.size, channels=options.channels, tones=self._tones
        )
        height, width, channels = pixels.shape
        self.shape = (channels, height, width)
        self.image_bytes = pixels.size
        self.channels_are_fixed = options.channels is not None
        self._size = options.size

    def settle(self, options: Options) -> None:
        """Fix what the images that were read have decided.

        Raises:
            DataError: hardly any gray levels are left of them.
        """
        self.channels_are_fixed = self._tones.is_fixed = True
        options.white_level = self._tones.white if self._tones.deep else None
        try:
            self._tones.check()
        except ValueError as error:
            raise DataError(str(error)) from error

    def read(self, values: Sequence[Any], rows: Sequence[int]) -> Tensor:
        """Return N images of the data set as uint8 (N, C, H, W); `rows` are their numbers.

        Raises:
            DataError: an image cannot be read.
            SizesError: It has another size, and none was asked for.
            ColorError: It has color, unlike the first one, and nothing was asked for.
            DepthError: it has more bits than the ones before it.
        """
        channels, height, width = self.shape
        pixels = np.empty((len(values), height, width, channels), dtype=np.uint8)

        def fill(part: range) -> None:
            for index in part:
                pixels[index] = self._read_one(values[index], rows[index])

        threads = min(8, os.cpu_count() or 1, len(values)) if _is_large(values) else 1
        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:
                parts = (range(start, len(values), 4 * threads) for start in range(4 * threads))
                list(pool.map(fill, parts))
        else:
            fill(range(len(values)))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

    def read_rows(self, source: Source, rows: Tensor) -> Tensor:
        """Return rows of a source as uint8 (N, C, H, W)."""
        chunks = [chunk.tolist() for chunk in rows.split(CHUNK)]
        return torch.cat([self.read(source.images(chunk), chunk) for chunk in chunks])

    def _read_one(self, value: Any, row: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        channels = self.shape[0] if self.channels_are_fixed else None
        pixels = read_pixels(value, row, size=self._size, channels=channels, tones=self._tones)
        if pixels.shape[:2] != self.shape[1:]:
            raise SizesError(
                f"images differ in size: row 0 is {self.shape[1]} x {self.shape[2]} (height x "
                f"width), row {row} is {pixels.shape[0]} x {pixels.shape[1]}; pass `image_size`"
            )
        if pixels.shape[2] > self.shape[0]:
            raise ColorError
        return pixels


def _is_large(values: Sequence[Any]) -> bool:
    """Return whether images are so large that decoding, not Python, takes the time."""
    first = values[0] if values else None
    encoded = first.get("bytes") if isinstance(first, Mapping) else first
    if isinstance(encoded, bytes):
        return len(encoded) > _SMALL_FILE
    return isinstance(first, (Mapping, str))
