"""Real data: labeled images, checked once, then sampled as fast as the memory at hand allows.

Flow: a data set of any kind -> `columns` and `classes` -> `sources` (its rows, decoded by `pixels`)
-> `rows` or `streams` -> `RealData`. The trainer draws its outer batches from it, the initial
synthetic images and the test batches. There are three kinds of rows, chosen by size:

- in memory: all pixels as one uint8 tensor on the device;
- on demand: a data set with random access that is larger than `max_bytes` is decoded row by row,
  when a batch wants it. Sampling is the same, so a batch still depends on its seed alone;
- a stream (`IterableDataset`) is read in stretches of `buffer_size` examples, each shuffled. Its
  position is all the state there is: a stretch is a function of where it began, so a resumed run
  sees what an undisturbed one would have seen.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dd_plugin.data.real.classes import Classes
from dd_plugin.data.real.columns import DataError, find_columns
from dd_plugin.data.real.held_out import HeldOut
from dd_plugin.data.real.pixel_sums import class_means, mean_std
from dd_plugin.data.real.rows import Rows, open_rows, require, require_two_classes
from dd_plugin.data.real.sources import (
    Options,
    SequenceSource,
    Source,
    TableSource,
    is_a,
    one_split,
)
from dd_plugin.data.real.streams import Stream, open_stream


class RealData:
    """Labeled images, ready to be sampled. Made by `RealData.from_dataset` or `load_real`.

    Images are handed out as float32 in [0, 1] of shape (N, C, H, W), labels as int64 of shape (N,),
    both on the device.

    Attributes:
        class_names: names in the order of the class indices.
        num_classes: how many.
        shape: (channels, height, width) of every image.
        device: where batches are.
        public_name: what others know the data set by: its id on the Hub, or `"digits"`. None for a
            folder of this machine and for an object.
        white_level: the value that is white in gray images of more than 8 bits; None where there
            are none.
        held_out: the rule by which these images were held out of others; None if they were not.
        sizes_differ: whether images were brought to a size that was chosen by their own.
    """

    def __init__(
        self,
        rows: Rows | Stream,
        class_names: Sequence[str],
        shape: tuple[int, int, int],
        device: torch.device,
    ) -> None:
        self._rows = rows
        self.class_names = list(class_names)
        self.num_classes = len(self.class_names)
        self.shape = shape
        self.device = device
        self.public_name: str | None = None
        self.white_level: int | None = None
        self.held_out: HeldOut | None = None
        self.sizes_differ = False
        self._fingerprint: str | None = None

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
        white_level: int | None = None,
        largest_size: int | None = None,
    ) -> RealData:
        """Read and check a data set.

        Whatever fits in `max_bytes` is decoded here, so a damaged image is found now. Of a larger
        data set all labels are checked and a sample of the images; of a stream the first buffer.

        Args:
            dataset: a `datasets.Dataset`, `IterableDataset`, a `DatasetDict` of either, or a
                sequence of (image, label) as torch's and torchvision's map-style data sets are.
                There an image is a Pillow image, an array (H, W[, C]) or a tensor ([C,] H, W).
                An attribute `classes`, where there is one, has the names of the labels 0, 1, 2, ...
                A format or transform set on a `datasets` data set is left out of account.
            split: the split of a `DatasetDict`; may be left out if it has only one. A single split
                without a name is `train`.
            image_column: column of the images, if it cannot be found by itself.
            label_column: the same for the labels.
            image_size: (height, width), or one number for a square, to which every image is brought
                (scaled to cover it, the middle cut out). By default the size that all images have;
                if they differ, this argument has to be given, or ``largest_size``.
            channels: 1 or 3. By default 3 if any of the images that are read here has color.
            class_names: see `Classes.make`; pass `train.class_names` for a test set.
            device: where batches are wanted, and the pixels kept if they fit.
            max_bytes: how much memory the pixels, or a stream's buffer, may take.
            buffer_size: how many examples of a stream are shuffled at a time. A stream that is
                sorted by class should be shuffled at its source.
            seed: for the shuffling of a stream.
            white_level: the value that is white in gray images of more than 8 bits. By default the
                largest value of the number of bits that the images use, 4095 for 12 bits in 16-bit
                files; pass ``train.white_level`` for a test set.
            largest_size: where images differ in size, they get their median size, up to this one.

        Raises:
            DataError: the data cannot be used, with the row and the remedy.
            MissingSplitError: there is no such split.
            TypeError: `dataset` is of another kind.
        """
        options = Options(
            image_size=image_size,
            channels=channels,
            device=torch.device(device),
            max_bytes=max_bytes,
            buffer_size=buffer_size,
            seed=seed,
            white_level=white_level,
            largest_size=largest_size,
        )
        dataset = one_split(dataset, split)
        named = {"image_column": image_column, "label_column": label_column}
        if is_a(dataset, "IterableDataset"):
            dataset = dataset.with_format(None)
            columns = find_columns(dataset, **named)
            options.channels = options.channels or columns.channels
            classes = Classes.make(declared=columns.class_names, class_names=class_names)
            rows, shape = open_stream(dataset, columns, classes, options)
            data = cls(rows, classes.names, shape, options.device)
            data.white_level = options.white_level
            return data
        source: Source
        if is_a(dataset, "Dataset"):
            columns = find_columns(dataset, **named)
            options.channels = options.channels or columns.channels
            source = TableSource(dataset, columns)
        else:
            source = SequenceSource(dataset)
        if len(source) == 0:
            where = f"split {split!r}" if split else "the data set"
            raise DataError(f"{where} has no rows; give another split or data set")
        if source.labels_are_cheap:
            classes, labels = _classes_of(source, class_names)
        take, shape, in_memory = open_rows(source, options)
        if not source.labels_are_cheap:
            classes, labels = _classes_of(source, class_names)
        held = Rows(take, labels, classes.names, in_memory)
        data = cls(held, classes.names, shape, options.device)
        data.white_level, data.sizes_differ = options.white_level, options.sizes_differ
        return data

    def batch(self, size: int, seed: int, *, balanced: bool = False) -> tuple[Tensor, Tensor]:
        """Return a random batch.

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

    def share(self, process: int, processes: int) -> None:
        """Have the batches of a stream come from one process's part of it, from its beginning.

        So that the processes of a run see different images. Of other data a batch is a function
        of its seed, and nothing is to be shared out.

        Args:
            process: from 0.
            processes: how many there are.
        """
        if isinstance(self._rows, Stream):
            self._rows.share(process, processes)

    def of_each_class(self, per_class: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return random images of each class, sorted by class; e.g. to start from.

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

    def class_means(self, per_class: int = 1) -> Tensor:
        """Return mean images of each class, (num_classes * per_class, C, H, W), sorted by class.

        Exact in memory; otherwise of 100 images per class (or of ``per_class``, if that is more),
        evenly spaced in a table and the first ones of a stream.

        Args:
            per_class: how many; each is the mean of another part of the class, since training
                could never tell equal images apart.

        Raises:
            DataError: a class has fewer images than that.
        """
        batches = self._rows.sample_of_classes(self._scan_size(), per_class)
        means, counts = class_means(batches, self.shape, self.num_classes, per_class)
        require(counts, per_class, self.class_names)
        return means.to(self.device)

    def mean_std(self) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation of each channel, of pixels in [0, 1].

        Of the images that `sample` gives.
        """
        return mean_std(self._rows.sample(self._scan_size()))

    def batches(
        self, size: int, *, first: int = 0, stop: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images once, in the order of the data set; the last batch may be smaller.

        A stream is read from its beginning, which leaves the position of `batch` where it is.

        Args:
            size: number of images in a batch.
            first: the row to start with.
            stop: the row to stop before; by default the end of the data set.
        """
        if size < 1:
            raise ValueError(f"`size` must be at least 1, got {size}")
        for pixels, labels in self._rows.scan(size, first, stop):
            yield self._hand_out(pixels, labels)

    def labels(self) -> Tensor:
        """Return all labels, int64 of shape (N,) on the CPU, in the order of `batches`.

        A stream is read once for them, without decoding its images.
        """
        return self._rows.labels()

    def fingerprint(self) -> str:
        """Return a checksum (SHA-256, hex) of all pixels and labels, in the order of `batches`.

        It is computed on the first call. Data that is not in memory is decoded for it once.
        """
        if self._fingerprint is None:
            pixels_sum, labels_sum = hashlib.sha256(), hashlib.sha256()
            for pixels, labels in self._rows.scan(self._scan_size()):
                pixels_sum.update(pixels.cpu().contiguous().numpy().data)
                labels_sum.update(labels.cpu().contiguous().numpy().data)
            both = f"{self.shape} {pixels_sum.hexdigest()} {labels_sum.hexdigest()}"
            self._fingerprint = hashlib.sha256(both.encode()).hexdigest()
        return self._fingerprint

    def sample(self, size: int) -> Iterator[Tensor]:
        """Yield batches of images that stand for all, e.g. to fit a transform to.

        All of them in memory; otherwise 10,000 rows, evenly spaced, or a stream's first buffer.
        """
        for pixels in self._rows.sample(size):
            yield self._images(pixels)

    def class_counts(self) -> list[int] | None:
        """Return how many images each class has; None for a stream, which does not know."""
        return self._rows.class_counts()

    def leave_out_empty_classes(self) -> list[str]:
        """Forget the classes that have no images, and return their names.

        As `datasets.Dataset.filter` leaves them, which removes rows and keeps all names. Nothing is
        done where fewer than two classes would remain, and to a stream, which cannot tell.
        """
        if not isinstance(self._rows, Rows):
            return []
        rows, names = self._rows.without_empty_classes()
        if len(names) == self.num_classes or len(names) < 2:
            return []
        empty = [name for name in self.class_names if name not in names]
        self._rows, self.class_names, self.num_classes = rows, names, len(names)
        self._fingerprint = None  # the labels are other numbers now
        return empty

    def hold_out(self, rule: HeldOut) -> tuple[RealData, RealData] | None:
        """Return the images that remain, and those that are held out; None for a stream."""
        if not isinstance(self._rows, Rows):
            return None
        is_held = rule.mask(self.labels(), self._rows.class_counts())
        rest, held = copy.copy(self), copy.copy(self)
        for part, mask in ((rest, ~is_held), (held, is_held)):
            part._rows, part._fingerprint = self._rows.part(mask.nonzero()[:, 0]), None
        held.held_out = rule
        return rest, held

    def check_classes(self, at_least: int = 1) -> None:
        """Raise a `DataError` naming each class with fewer images; a stream cannot tell."""
        counts = self.class_counts()
        if counts is not None:
            require_two_classes(torch.tensor(counts), self.class_names)
            require(torch.tensor(counts), at_least, self.class_names)

    @property
    def in_memory(self) -> bool:
        """True if all pixels are on the device."""
        return isinstance(self._rows, Rows) and self._rows.in_memory

    def count(self) -> int | None:
        """Return how many images there are; None for a stream, which does not know."""
        return self._rows.length()

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
        """Return the position in the data, of plain values that JSON can hold."""
        return {
            "shape": list(self.shape),
            "num_classes": self.num_classes,
            "length": self._rows.length(),
            "position": self._rows.position(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a position.

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
        return self._images(pixels), labels.to(self.device)

    def _images(self, pixels: Tensor) -> Tensor:
        return pixels.to(self.device).float().div_(255)

    def _scan_size(self) -> int:
        """Return the number of rows whose pixels as int64 take some 64 MiB."""
        return max(1, (64 << 20) // (8 * int(np.prod(self.shape))))


def _classes_of(source: Source, class_names: Sequence[str] | None) -> tuple[Classes, Tensor]:
    values = source.labels()
    classes = Classes.make(declared=source.class_names, class_names=class_names, values=values)
    return classes, classes.encode(values)
