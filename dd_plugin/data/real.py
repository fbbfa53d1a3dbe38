"""Real data: labelled images, checked once, then sampled as fast as the memory at hand allows.

Flow: a data set of any kind -> `columns` (where, which classes, which pixels) -> rows ->
`RealData`, from which the trainer draws its outer batches, the initial synthetic images and the
test batches.
There are three kinds of rows, chosen by size:

- in memory: all pixels as one uint8 tensor on the device;
- on demand: a data set with random access that is larger than `max_bytes` is decoded row by row,
  when a batch wants it. Sampling is the same, so a batch still depends on its seed alone;
- a stream (`IterableDataset`) is read in stretches of `buffer_size` examples, each shuffled. Its
  position is all the state there is: a stretch is a function of where it began, so a resumed run
  sees what an undisturbed one would have seen.

`load_real` gets a data set by its name.
"""

from __future__ import annotations

import copy
import functools
import itertools
import os
import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from dd_plugin.bilevel.randomness import mix
from dd_plugin.data.columns import Classes, Columns, DataError, find_columns, read_pixels

DIGITS: Final = "digits"

_CHUNK = 256  # rows that are read at a time
_SMALL_FILE = 8 << 10  # bytes below which decoding is mostly Python, and threads only cost
_CHECKED = 1_000  # rows of a table that is not kept in memory that are tried before a run
_SAMPLE = 10_000  # rows that stand for all where reading all would take hours
_SAMPLE_PER_CLASS = 100  # the same per class
_SPREAD = 10  # a stream's random images of a class are drawn from so many times as many


class RealData:
    """Labelled images, ready to be sampled. Made by `RealData.from_dataset` or `load_real`.

    Images are handed out as float32 in [0, 1] of shape (N, C, H, W), labels as int64 of shape (N,),
    both on the device.

    Attributes:
        class_names: names in the order of the class indices.
        num_classes: how many.
        shape: (channels, height, width) of every image.
        device: where batches are.
    """

    def __init__(
        self,
        rows: _Rows | _Stream,
        class_names: Sequence[str],
        shape: tuple[int, int, int],
        device: torch.device,
    ) -> None:
        self._rows = rows
        self.class_names = list(class_names)
        self.num_classes = len(self.class_names)
        self.shape = shape
        self.device = device

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        *,
        split: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        image_size: int | tuple[int, int] | None = None,
        channels: int | None = None,
        class_names: Sequence[str] | None = None,
        device: torch.device | str = "cpu",
        max_bytes: int = 2 << 30,
        buffer_size: int = 10_000,
        seed: int = 0,
    ) -> RealData:
        """Reads and checks a data set.

        Whatever fits in `max_bytes` is decoded here, so a damaged image is found now. Of a larger
        data set all labels are checked and a sample of the images; of a stream the first buffer.

        Args:
            dataset: a `datasets.Dataset`, `IterableDataset`, a `DatasetDict` of either, or a
                sequence of (image, label) as torch's and torchvision's map-style data sets are,
                where an image is a Pillow image, an array (H, W[, C]) or a tensor ([C,] H, W).
                A format or transform set on a `datasets` data set is left out of account.
            split: the split of a `DatasetDict`; may be left out if it has only one.
            image_column: column of the images, if it cannot be found by itself.
            label_column: the same for the labels.
            image_size: (height, width), or one number for a square, to which every image is brought
                (scaled to cover it, the middle cut out). By default the size that all images have;
                if they differ, this argument has to be given, since the choice settles what the
                distilled images will be.
            channels: 1 or 3. By default 3 if any of the images that are read here has colour.
            class_names: see `Classes.make`; pass `train.class_names` for a test set.
            device: where batches are wanted, and the pixels kept if they fit.
            max_bytes: how much memory the pixels, or a stream's buffer, may take.
            buffer_size: how many examples of a stream are shuffled at a time. A stream that is
                sorted by class should be shuffled at its source.
            seed: for the shuffling of a stream.

        Raises:
            DataError: the data cannot be used, with the row and the remedy.
            TypeError: `dataset` is none of the above.
        """
        options = _Options(image_size, channels, torch.device(device), max_bytes, buffer_size, seed)
        dataset = _one_split(dataset, split)
        named = {"image_column": image_column, "label_column": label_column}
        if _is_a(dataset, "IterableDataset"):
            dataset = dataset.with_format(None)
            columns = find_columns(dataset, **named)
            options.channels = options.channels or columns.channels
            classes = Classes.make(declared=columns.class_names, class_names=class_names)
            rows, shape = _open_stream(dataset, columns, classes, options)
            return cls(rows, classes.names, shape, options.device)
        source: _Source
        if _is_a(dataset, "Dataset"):
            columns = find_columns(dataset, **named)
            options.channels = options.channels or columns.channels
            source = _TableSource(dataset, columns)
        else:
            source = _SequenceSource(dataset)
        if len(source) == 0:
            where = f"split {split!r}" if split else "the data set"
            raise DataError(f"{where} has no rows; give another split or data set")
        if source.labels_are_cheap:
            classes, labels = _classes_of(source, class_names)
        take, shape, in_memory = _open_rows(source, options)
        if not source.labels_are_cheap:
            classes, labels = _classes_of(source, class_names)
        held = _Rows(take, labels, classes.names, in_memory)
        return cls(held, classes.names, shape, options.device)

    def batch(self, size: int, seed: int, *, balanced: bool = False) -> tuple[Tensor, Tensor]:
        """A random batch.

        Rows are drawn without replacement as long as there are enough, otherwise each is drawn
        equally often, give or take one. The same seed gives the same batch, on every device. A
        stream instead walks on through its shuffled buffer; balanced, it draws from the buffer.

        Args:
            size: number of images.
            seed: of the draw.
            balanced: draw equally many of each class; classes that get one more are drawn too. In a
                stream this holds as far as the buffer has all classes.

        Returns:
            Images (size, C, H, W) in [0, 1] and labels (size,).
        """
        if size < 1:
            raise ValueError(f"`size` must be at least 1, got {size}")
        pixels, labels = self._rows.batch(size, seed, balanced)
        return self._hand_out(pixels, labels)

    def of_each_class(self, per_class: int, seed: int) -> tuple[Tensor, Tensor]:
        """Random images of each class, sorted by class; e.g. to start from, or as a baseline.

        A stream is read from its beginning until it has shown ten times as many of each class.

        Args:
            per_class: number of images of each class, drawn without replacement.
            seed: of the draw.

        Returns:
            Images (num_classes * per_class, C, H, W) in [0, 1] and their labels.

        Raises:
            DataError: a class has fewer images.
        """
        if per_class < 1:
            raise ValueError(f"`per_class` must be at least 1, got {per_class}")
        pixels, labels = self._rows.of_each_class(per_class, seed)
        return self._hand_out(pixels, labels)

    def class_means(self) -> Tensor:
        """The mean image of each class, (num_classes, C, H, W) in [0, 1].

        Exact in memory; otherwise of 100 images per class, evenly spaced in a table and the first
        ones of a stream.

        Raises:
            DataError: a class has no images.
        """
        sums = torch.zeros(self.num_classes, *self.shape, dtype=torch.int64)
        counts = torch.zeros(self.num_classes, dtype=torch.int64)
        for pixels, labels in self._rows.sample_of_classes(self._scan_size()):
            labels = labels.cpu()
            # Sums of whole numbers do not depend on their order.
            sums.index_add_(0, labels, pixels.cpu().to(torch.int64))
            counts += torch.bincount(labels, minlength=self.num_classes)
        _require(counts, 1, self.class_names)
        means = sums.double() / counts.view(-1, 1, 1, 1) / 255
        return means.float().to(self.device)

    def mean_std(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, of pixels in [0, 1].

        Of the images that `sample` gives.
        """
        count = 0
        total = squares = torch.zeros(self.shape[0], dtype=torch.int64)
        for pixels in self._rows.sample(self._scan_size()):
            values = pixels.to(torch.int64)  # whole numbers: exact in any order
            count += values[:, 0].numel()
            total = total + values.sum(dim=(0, 2, 3)).cpu()
            squares = squares + values.square().sum(dim=(0, 2, 3)).cpu()
        means, stds = [], []
        for channel in range(self.shape[0]):
            mean = int(total[channel]) / count
            # count² times the variance, in whole numbers: nothing cancels.
            spread = count * int(squares[channel]) - int(total[channel]) ** 2
            means.append(mean / 255)
            stds.append(spread**0.5 / count / 255)
        return means, stds

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images once, in the order of the data set; the last batch may be smaller.

        A stream is read from its beginning, which leaves the position of `batch` where it is.
        """
        if size < 1:
            raise ValueError(f"`size` must be at least 1, got {size}")
        for pixels, labels in self._rows.scan(size):
            yield self._hand_out(pixels, labels)

    def sample(self, size: int) -> Iterator[Tensor]:
        """Batches of images that stand for all, e.g. to fit a transform to.

        All of them in memory; otherwise 10,000 rows, evenly spaced, or a stream's first buffer.
        """
        for pixels in self._rows.sample(size):
            yield pixels.to(self.device).float().div_(255)

    def class_counts(self) -> list[int] | None:
        """How many images each class has; None for a stream, which does not know."""
        return self._rows.class_counts()

    def check_classes(self, at_least: int = 1) -> None:
        """Raises a `DataError` naming each class with fewer images; a stream cannot tell."""
        counts = self.class_counts()
        if counts is not None:
            _require(torch.tensor(counts), at_least, self.class_names)

    @property
    def in_memory(self) -> bool:
        """Whether all pixels are on the device."""
        return isinstance(self._rows, _Rows) and self._rows.in_memory

    def __len__(self) -> int:
        length = self._rows.length()
        if length is None:
            raise TypeError(
                "the length of a stream is not known before its end; count steps instead of "
                "epochs, or load the data set without streaming"
            )
        return length

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        length = self._rows.length()
        rows = "a stream" if length is None else f"{length} images"
        return f"RealData({rows}, {self.num_classes} classes, shape {self.shape}, {self.device})"

    def state_dict(self) -> dict[str, Any]:
        """The position in the data, of plain values that JSON can hold."""
        return {
            "shape": list(self.shape),
            "num_classes": self.num_classes,
            "length": self._rows.length(),
            "position": self._rows.position(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to a position.

        Raises:
            DataError: it was saved with other data.
        """
        here = self.state_dict()
        for key in ("shape", "num_classes", "length"):
            if here[key] != state[key]:
                raise DataError(
                    f"the saved position belongs to other data: its {key} is {state[key]}, here it "
                    f"is {here[key]}; resume with the data set that the run was started with"
                )
        self._rows.restore(state["position"])

    def _hand_out(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return pixels.to(self.device).float().div_(255), labels.to(self.device)

    def _scan_size(self) -> int:
        """Rows whose pixels as int64 take some 64 MiB."""
        return max(1, (64 << 20) // (8 * int(np.prod(self.shape))))


def load_real(
    source: Any,
    split: str | None = None,
    *,
    config: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    **options: Any,
) -> RealData:
    """Real data by name.

    Args:
        source: a folder (of images sorted into folders, of Parquet files, or written by
            `save_to_disk`), the id of a data set on the Hugging Face Hub, `"digits"` for the one
            that scikit-learn brings along, or anything `RealData.from_dataset` takes.
        split: which split, e.g. `"train"`; for a folder or the Hub also a slice, `"train[:1000]"`.
        config: which configuration of the data set, if it has several.
        revision: which commit, branch or tag on the Hub.
        streaming: read it as a stream instead of fetching all of it.
        **options: of `RealData.from_dataset`.

    Raises:
        DataError: it cannot be found, reached or used.
    """
    if isinstance(source, (str, os.PathLike)):
        source, split = _load(os.fspath(source), split, config, revision, streaming)
    return RealData.from_dataset(source, split=split, **options)


def _load(
    name: str, split: str | None, config: str | None, revision: str | None, streaming: bool
) -> tuple[Any, str | None]:
    """The data set, and the split that remains to be taken."""
    import datasets
    from datasets.exceptions import DatasetsError

    if name == DIGITS:
        from dd_plugin.data.digits import load_digits

        return load_digits(), split
    if not name:
        raise DataError(f"the data set needs a name: a folder, an id on the Hub, or {DIGITS!r}")
    folder = Path(name).expanduser()
    if not folder.exists() and (name.startswith((".", "~")) or folder.is_absolute()):
        raise DataError(f"there is no folder {name!r}")
    place = str(folder) if folder.exists() else name
    arguments: dict[str, Any] = {"name": config, "split": split, "streaming": streaming}
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            return datasets.load_from_disk(place), split
        if folder.suffix == ".parquet" and folder.is_file():
            loaded = datasets.load_dataset("parquet", data_files=place, **arguments)
        else:
            loaded = datasets.load_dataset(place, revision=revision, **arguments)
    except (OSError, ValueError, RuntimeError, ImportError, DatasetsError) as error:
        raise DataError(_unreachable(name, folder.exists(), split, error)) from error
    return loaded, None


def _unreachable(name: str, is_local: bool, split: str | None, error: Exception) -> str:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    what = f"data set {name!r}" + (f", split {split!r}," if split else "")
    if is_local:
        return f"the {what} could not be read: {reason}"
    return (
        f"the {what} could not be had: there is no such folder here, and from the Hub: {reason}; "
        f"check the name and the connection, give a folder, or use {DIGITS!r}, which needs neither"
    )


# --- from a data set to rows --------------------------------------------------------------------


class _Options:
    """The checked options of `RealData.from_dataset` that say how images are kept."""

    def __init__(
        self,
        image_size: int | tuple[int, int] | None,
        channels: int | None,
        device: torch.device,
        max_bytes: int,
        buffer_size: int,
        seed: int,
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
        self.size: tuple[int, int] | None = size
        self.channels = channels
        self.device = device
        self.max_bytes = max_bytes
        self.buffer_size = buffer_size
        self.seed = seed


class _ColourError(Exception):
    """A colour image among grey ones."""


def _is_a(dataset: Any, kind: str) -> bool:
    """Whether it is of a class of `datasets`, which need not be imported to say no."""
    return any(
        base.__name__ == kind and base.__module__.partition(".")[0] == "datasets"
        for base in type(dataset).__mro__
    )


def _one_split(dataset: Any, split: str | None) -> Any:
    if _is_a(dataset, "DatasetDict") or _is_a(dataset, "IterableDatasetDict"):
        there = ", ".join(map(repr, dataset))
        if split is None and len(dataset) == 1:
            return next(iter(dataset.values()))
        if split is None:
            raise DataError(f"`split` must say which part of the data set to take: {there}")
        if split not in dataset:
            raise DataError(f"there is no split {split!r}; there are {there or 'none'}")
        return dataset[split]
    if split is not None and split != str(getattr(dataset, "split", None)):
        raise DataError(
            f"`split` is {split!r}, but what was given is a single split already; "
            "leave `split` out, or pass the DatasetDict"
        )
    return dataset


def _classes_of(source: _Source, class_names: Sequence[str] | None) -> tuple[Classes, Tensor]:
    values = source.labels()
    classes = Classes.make(declared=source.class_names, class_names=class_names, values=values)
    return classes, classes.encode(values)


class _TableSource:
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
        return self._labels[:][self._columns.label].to_pylist()

    def images(self, rows: Sequence[int]) -> list[Any]:
        key = slice(rows.start, rows.stop) if isinstance(rows, range) else list(rows)
        column = self._images[key][self._columns.image]
        return column.to_pylist() if self._encoded else list(column)


class _SequenceSource:
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
        self.class_names = list(classes) if isinstance(classes, (list, tuple)) else None
        self._sequence = sequence
        self._known: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._sequence)

    def labels(self) -> list[Any]:
        """All labels; those of images that were read are known already."""
        for row in range(len(self)):
            if row not in self._known:
                self._item(row)
        return [self._known[row] for row in range(len(self))]

    def images(self, rows: Sequence[int]) -> list[Any]:
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


_Source = _TableSource | _SequenceSource


def _open_rows(
    source: _Source, options: _Options
) -> tuple[Callable[[Tensor], Tensor], tuple[int, int, int], bool]:
    """What gives uint8 rows by their indices, (C, H, W), and whether it is in memory."""
    count = len(source)
    reader = _Reader(source.images(range(1))[0], options)
    try:
        if count * reader.image_bytes > options.max_bytes:
            for row in range(0, count, -(-count // _CHECKED)):
                reader.read(source.images([row]), [row])
            reader.channels_are_fixed = True
            return functools.partial(reader.read_rows, source), reader.shape, False
        pixels = torch.empty(count, *reader.shape, dtype=torch.uint8)
        for start in range(0, count, _CHUNK):
            rows = range(start, min(start + _CHUNK, count))
            pixels[start : rows.stop] = reader.read(source.images(rows), rows)
    except _ColourError:
        options.channels = 3
        return _open_rows(source, options)
    kept = pixels.to(options.device)
    return functools.partial(_take, kept), reader.shape, True


def _take(pixels: Tensor, rows: Tensor) -> Tensor:
    return pixels.index_select(0, rows.to(pixels.device))


def _open_stream(
    dataset: Any, columns: Columns, classes: Classes, options: _Options
) -> tuple[_Rows | _Stream, tuple[int, int, int]]:
    """The rows of an `IterableDataset`, and (C, H, W)."""
    from datasets import Image

    dataset = dataset.select_columns([columns.image, columns.label])
    if dataset.features is not None and isinstance(dataset.features[columns.image], Image):
        dataset = dataset.cast_column(columns.image, Image(decode=False))
    first = next(iter(copy.deepcopy(dataset)), None)
    if first is None:
        raise DataError("the stream has no rows; give another split or data set")
    reader = _Reader(first[columns.image], options)
    buffer_size = max(1, min(options.buffer_size, options.max_bytes // reader.image_bytes))
    stream = _Stream(dataset, columns, classes, reader, buffer_size, options.seed)
    try:
        pixels, labels = stream.first_block()
    except _ColourError:
        options.channels = 3
        return _open_stream(dataset, columns, classes, options)
    reader.channels_are_fixed = True
    if len(labels) < buffer_size:  # that was all of it
        kept = pixels.to(options.device)
        return _Rows(functools.partial(_take, kept), labels, classes.names, True), reader.shape
    return stream, reader.shape


class _Reader:
    """Decodes images to one size and number of channels.

    Args:
        first: the first image, which decides what the options leave open.
        options: those of the user.
    """

    def __init__(self, first: Any, options: _Options) -> None:
        pixels = read_pixels(first, 0, size=options.size, channels=options.channels)
        height, width, channels = pixels.shape
        self.shape = (channels, height, width)
        self.image_bytes = pixels.size
        self.channels_are_fixed = options.channels is not None
        self._size = options.size

    def read(self, values: Sequence[Any], rows: Sequence[int]) -> Tensor:
        """uint8 (N, C, H, W) of N images as the data set has them; `rows` are their numbers.

        Raises:
            DataError: an image cannot be read, or has another size although none was asked for.
            _ColourError: it has colour, the first one had not, and nothing was asked for.
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

    def read_rows(self, source: _Source, rows: Tensor) -> Tensor:
        """The same for rows of a source."""
        chunks = [chunk.tolist() for chunk in rows.split(_CHUNK)]
        return torch.cat([self.read(source.images(chunk), chunk) for chunk in chunks])

    def _read_one(self, value: Any, row: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        channels = self.shape[0] if self.channels_are_fixed else None
        pixels = read_pixels(value, row, size=self._size, channels=channels)
        if pixels.shape[:2] != self.shape[1:]:
            raise DataError(
                f"images differ in size: row 0 is {self.shape[1]} x {self.shape[2]} (height x "
                f"width), row {row} is {pixels.shape[0]} x {pixels.shape[1]}; pass `image_size`"
            )
        if pixels.shape[2] > self.shape[0]:
            raise _ColourError
        return pixels


def _is_large(values: Sequence[Any]) -> bool:
    """Whether images are so large that the decoder, which runs without Python, takes the time."""
    first = values[0] if values else None
    encoded = first.get("bytes") if isinstance(first, Mapping) else first
    if isinstance(encoded, bytes):
        return len(encoded) > _SMALL_FILE
    return isinstance(first, (Mapping, str))


# --- rows with random access --------------------------------------------------------------------


class _Rows:
    """Rows that can be had in any order.

    Args:
        take: uint8 pixels of rows, given their indices on the CPU.
        labels: all labels, on the CPU.
        class_names: for messages.
        in_memory: whether taking rows costs next to nothing.
    """

    def __init__(
        self,
        take: Callable[[Tensor], Tensor],
        labels: Tensor,
        class_names: Sequence[str],
        in_memory: bool,
    ) -> None:
        self.in_memory = in_memory
        self._take = take
        self._labels = labels
        self._names = class_names
        self._counts = torch.bincount(labels, minlength=len(class_names))
        self._of_class = labels.argsort(stable=True).split(self._counts.tolist())

    def batch(self, size: int, seed: int, balanced: bool) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        if balanced:
            _require(self._counts, 1, self._names)
            rows = _draw_balanced(self._of_class, size, generator)
        else:
            rows = _draw(len(self._labels), size, generator)
        return self._take(rows), self._labels[rows]

    def of_each_class(self, per_class: int, seed: int) -> tuple[Tensor, Tensor]:
        _require(self._counts, per_class, self._names)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.cat([mine[_draw(len(mine), per_class, generator)] for mine in self._of_class])
        return self._take(rows), self._labels[rows]

    def scan(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.arange(len(self._labels)).split(size):
            yield self._take(rows), self._labels[rows]

    def sample(self, size: int) -> Iterator[Tensor]:
        for rows in self._some(torch.arange(len(self._labels)), _SAMPLE).split(size):
            yield self._take(rows)

    def sample_of_classes(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        rows = torch.cat([self._some(mine, _SAMPLE_PER_CLASS) for mine in self._of_class])
        for part in rows.split(size):
            yield self._take(part), self._labels[part]

    def _some(self, rows: Tensor, limit: int) -> Tensor:
        """All rows in memory, otherwise at most some, evenly spaced."""
        if self.in_memory or len(rows) <= limit:
            return rows
        return rows[torch.arange(limit) * len(rows) // limit]

    def class_counts(self) -> list[int] | None:
        return self._counts.tolist()

    def length(self) -> int | None:
        return len(self._labels)

    def position(self) -> dict[str, Any] | None:
        return None

    def restore(self, position: Mapping[str, Any] | None) -> None:
        if position is not None:
            raise DataError("the saved position is one in a stream, but the data is not streamed")


def _join(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([pixels for pixels, _ in parts]), torch.cat([labels for _, labels in parts])


def _draw(count: int, size: int, generator: torch.Generator) -> Tensor:
    """`size` indices below `count`, each used equally often, give or take one."""
    rounds = -(-size // count)
    return torch.cat([torch.randperm(count, generator=generator) for _ in range(rounds)])[:size]


def _draw_balanced(of_class: Sequence[Tensor], size: int, generator: torch.Generator) -> Tensor:
    """`size` rows in random order, equally many of each class, give or take one."""
    shares = torch.bincount(_draw(len(of_class), size, generator), minlength=len(of_class))
    drawn = [
        rows[_draw(len(rows), share, generator)]
        for rows, share in zip(of_class, shares.tolist(), strict=True)
        if share
    ]
    return torch.cat(drawn)[torch.randperm(size, generator=generator)]


def _require(counts: Tensor, at_least: int, names: Sequence[str]) -> None:
    short = [
        f"{name!r} has {count}"
        for name, count in zip(names, counts.tolist(), strict=True)
        if count < at_least
    ]
    if short:
        more = f" and {len(short) - 10} more" if len(short) > 10 else ""
        raise DataError(
            f"each class must have at least {at_least} images, but {', '.join(short[:10])}{more}; "
            "ask for fewer images per class, leave these classes out, or give more data"
        )


# --- streams ------------------------------------------------------------------------------------


class _Stream:
    """An `IterableDataset`, read block by block; a block is in memory, and shuffled.

    The order in a block follows from `seed`, the epoch and the row it begins with, so where the
    current block begins and how much of it is used is the whole state.

    Args:
        dataset: yields undecoded images. It is copied for each pass, since a pass changes it.
        columns: of the images and labels.
        classes: of the labels.
        reader: of the images.
        buffer_size: rows of a block.
        seed: for the order in the blocks.
    """

    def __init__(
        self,
        dataset: Any,
        columns: Columns,
        classes: Classes,
        reader: _Reader,
        buffer_size: int,
        seed: int,
    ) -> None:
        self._dataset = dataset
        self._columns = columns
        self._classes = classes
        self._reader = reader
        self._buffer_size = buffer_size
        self._seed = seed
        self._epoch = 0
        self._row = 0  # of the epoch, with which the current block begins
        self._state: Any = None  # of the data set there
        self._used = 0  # rows of the current block
        self._block: tuple[Tensor, Tensor] | None = None
        self._live: tuple[Any, Iterator[Any]] | None = None  # the pass that is read from

    def first_block(self) -> tuple[Tensor, Tensor]:
        return self._current()

    def batch(self, size: int, seed: int, balanced: bool) -> tuple[Tensor, Tensor]:
        if balanced:
            return self._balanced_batch(size, seed)
        parts = []
        while size:
            pixels, labels = self._current()
            order = torch.randperm(len(labels), generator=self._generator())
            rows = order[self._used : self._used + size]
            parts.append((pixels[rows], labels[rows]))
            self._use(len(rows))
            size -= len(rows)
        return _join(parts)

    def _balanced_batch(self, size: int, seed: int) -> tuple[Tensor, Tensor]:
        pixels, labels = self._current()
        of_class = labels.argsort(stable=True).split(torch.bincount(labels).tolist())
        generator = self._generator(self._used, seed)
        rows = _draw_balanced([mine for mine in of_class if len(mine)], size, generator)
        batch = pixels[rows], labels[rows]
        self._use(size)
        return batch

    def _generator(self, *more: int) -> torch.Generator:
        return torch.Generator().manual_seed(mix(self._seed, self._epoch, self._row, *more))

    def _current(self) -> tuple[Tensor, Tensor]:
        """The current block, read if need be."""
        if self._block is None:
            if self._live is None:
                self._live = self._begin(self._epoch, self._row)
            self._block = self._read_block(self._live[1])
        if self._block is None:
            if self._row == 0:
                raise DataError("the stream has no rows; give another split or data set")
            self._epoch, self._row, self._state, self._live = self._epoch + 1, 0, None, None
            return self._current()
        return self._block

    def _read_block(self, examples: Iterator[Any]) -> tuple[Tensor, Tensor] | None:
        """What follows in a pass that has come to `self._row`; None at its end."""
        parts = []
        left, row = self._buffer_size, self._row
        while left and (piece := list(itertools.islice(examples, min(left, _CHUNK)))):
            parts.append(self._read(piece, row))
            left -= len(piece)
            row += len(piece)
        return _join(parts) if parts else None

    def _use(self, count: int) -> None:
        """Counts rows as used, and goes on to the next block when all are."""
        assert self._block is not None
        assert self._live is not None
        self._used += count
        if self._used >= len(self._block[1]):
            self._row += len(self._block[1])
            self._state = self._live[0].state_dict()
            self._used, self._block = 0, None

    def _begin(self, epoch: int = 0, row: int = 0, state: Any = None) -> tuple[Any, Iterator[Any]]:
        """A pass over the data set from a row on, by its own state there if that is given."""
        dataset = copy.deepcopy(self._dataset)
        dataset.set_epoch(epoch)
        if state is None:
            return dataset, itertools.islice(iter(dataset), row, None)
        dataset.load_state_dict(state)
        return dataset, iter(dataset)

    def _read(self, examples: Sequence[Any], row: int) -> tuple[Tensor, Tensor]:
        values, labels = self._columns_of(examples)
        encoded = self._classes.encode(labels, first_row=row)
        return self._reader.read(values, range(row, row + len(examples))), encoded

    def _columns_of(self, examples: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        image, label = self._columns.image, self._columns.label
        return [example[image] for example in examples], [example[label] for example in examples]

    def scan(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for row, examples in self._pieces(size):
            yield self._read(examples, row)

    def _pieces(self, size: int) -> Iterator[tuple[int, list[Any]]]:
        """All examples from the beginning, with the row of the first one of each piece."""
        _, examples = self._begin()
        row = 0
        while piece := list(itertools.islice(examples, size)):
            yield row, piece
            row += len(piece)

    def sample(self, size: int) -> Iterator[Tensor]:
        if self._epoch == 0 and self._row == 0:
            yield from self._current()[0].split(size)
            return
        left = self._buffer_size
        for row, examples in self._pieces(size):
            yield self._read(examples[:left], row)[0]
            left -= len(examples)
            if left <= 0:
                return

    def sample_of_classes(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        seen = [0] * len(self._classes.names)
        for first_row, examples in self._pieces(size):
            values, raw_labels = self._columns_of(examples)
            labels = self._classes.encode(raw_labels, first_row=first_row)
            wanted = []
            for index, label in enumerate(labels.tolist()):
                if seen[label] < _SAMPLE_PER_CLASS:
                    wanted.append(index)
                seen[label] += 1
            if wanted:
                rows = [first_row + index for index in wanted]
                yield self._reader.read([values[index] for index in wanted], rows), labels[wanted]
            if min(seen) >= _SAMPLE_PER_CLASS:
                return

    def of_each_class(self, per_class: int, seed: int) -> tuple[Tensor, Tensor]:
        """Reservoir sampling (Vitter 1985, algorithm R) of each class, on undecoded images."""
        random_numbers = random.Random(seed)
        count = len(self._classes.names)
        seen = [0] * count
        kept: list[list[tuple[int, Any]]] = [[] for _ in range(count)]
        for first_row, examples in self._pieces(_CHUNK):
            values, raw_labels = self._columns_of(examples)
            labels = self._classes.encode(raw_labels, first_row=first_row).tolist()
            for row, (value, label) in enumerate(zip(values, labels, strict=True), first_row):
                seen[label] += 1
                if len(kept[label]) < per_class:
                    kept[label].append((row, value))
                elif (place := random_numbers.randrange(seen[label])) < per_class:
                    kept[label][place] = (row, value)
            if min(seen) >= _SPREAD * per_class:
                break
        _require(torch.tensor(seen), per_class, self._classes.names)
        drawn = [pair for of_class in kept for pair in of_class]
        pixels = self._reader.read([value for _, value in drawn], [row for row, _ in drawn])
        return pixels, torch.arange(count).repeat_interleave(per_class)

    def class_counts(self) -> list[int] | None:
        return None

    def length(self) -> int | None:
        return None

    def position(self) -> dict[str, Any] | None:
        block = self._current()  # the next batch wants it anyway
        return {
            "checksum": _checksum(block),
            "epoch": self._epoch,
            "row": self._row,
            "used": self._used,
            "state": self._state,
            "seed": self._seed,
            "buffer_size": self._buffer_size,
        }

    def restore(self, position: Mapping[str, Any] | None) -> None:
        if position is None:
            raise DataError("the saved position is not one in a stream, but the data is streamed")
        for name, here in (("seed", self._seed), ("buffer_size", self._buffer_size)):
            if position[name] != here:
                raise DataError(
                    f"the saved position is one with `{name}` {position[name]}, here it is {here}; "
                    "resume with the same options"
                )
        self._epoch = position["epoch"]
        self._row = position["row"]
        self._used = position["used"]
        self._state = position["state"]
        # A state can be inexact: it leaves out, for one, what is in a shuffle buffer of the data
        # set's own. Then all rows up to the position are read again.
        for state in (self._state, None):
            self._live = self._begin(self._epoch, self._row, state)
            self._block = self._read_block(self._live[1])
            if self._block is not None and _checksum(self._block) == position["checksum"]:
                return
        raise DataError(
            f"the stream does not show the images that it showed before at row {self._row}, so the "
            "run cannot go on as it was; a stream must repeat itself: give its shuffling a seed, "
            "and leave out random transforms"
        )


def _checksum(block: tuple[Tensor, Tensor]) -> int:
    pixels, labels = block
    return zlib.crc32(labels.numpy().data, zlib.crc32(pixels.numpy().data))
