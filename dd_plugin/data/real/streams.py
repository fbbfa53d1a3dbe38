"""Streams: an `IterableDataset` read in blocks, each shuffled, whose position can be saved.

`open_stream` looks at the beginning: a stream that ends there becomes `rows`, a longer one a
`Stream`, which `RealData` draws from as it does from rows. A block is a function of where it began,
so a resumed run sees what an undisturbed one would have seen.
"""

from __future__ import annotations

import copy
import functools
import itertools
import random
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dd_plugin.data.real.classes import Classes
from dd_plugin.data.real.columns import Columns, DataError
from dd_plugin.data.real.rows import SAMPLE_PER_CLASS, Rows, draw_balanced, require, take
from dd_plugin.data.real.sources import CHUNK, ColorError, Options, Reader
from dd_plugin.data.real.tones import DepthError
from dd_plugin.seeds import Purpose, mix

_SPREAD = 10  # random images of a class are drawn from so many times as many


def open_stream(
    dataset: Any, columns: Columns, classes: Classes, options: Options
) -> tuple[Rows | Stream, tuple[int, int, int]]:
    """Return the rows of an `IterableDataset`, and (C, H, W)."""
    from datasets import Image

    dataset = dataset.select_columns([columns.image, columns.label])
    if dataset.features is not None and isinstance(dataset.features[columns.image], Image):
        dataset = dataset.cast_column(columns.image, Image(decode=False))
    first = next(iter(copy.deepcopy(dataset)), None)
    if first is None:
        raise DataError("the stream has no rows; give another split or data set")
    try:
        reader = Reader(first[columns.image], options)
        buffer_size = max(1, min(options.buffer_size, options.max_bytes // reader.image_bytes))
        stream = Stream(
            dataset,
            columns=columns,
            classes=classes,
            reader=reader,
            buffer_size=buffer_size,
            seed=options.seed,
        )
        pixels, labels = stream.first_block()
    except ColorError:
        options.channels = 3
        return open_stream(dataset, columns, classes, options)
    except DepthError as error:
        options.white_so_far = error.white
        return open_stream(dataset, columns, classes, options)
    reader.settle(options)
    if len(labels) < buffer_size:  # that was all of it
        kept = pixels.to(options.device)
        return Rows(functools.partial(take, kept), labels, classes.names, True), reader.shape
    return stream, reader.shape


class Stream:
    """An `IterableDataset`, read block by block; a block is in memory, and shuffled.

    The order in a block follows from `seed`, the epoch and the row it begins with. The whole state
    is where the current block begins and how much of it is used.

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
        *,
        columns: Columns,
        classes: Classes,
        reader: Reader,
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
        self._mine = dataset  # what the position is in
        # Rows of each class in this epoch so far; None where its beginning was not seen.
        self._shown: Tensor | None = self._none_shown()
        self._missing: list[str] = []  # classes that were told to be missing
        self._part = ""

    def share(self, process: int, processes: int) -> None:
        """Have batches come from one process's part of the rows, from its beginning."""
        from datasets.distributed import split_dataset_by_node

        self._mine = split_dataset_by_node(self._dataset, rank=process, world_size=processes)
        self._epoch = self._row = self._used = 0
        self._state = self._block = self._live = None
        self._shown = self._none_shown()
        self._part = f", in part {process + 1} of {processes}," if processes > 1 else ""

    def first_block(self) -> tuple[Tensor, Tensor]:
        """Return uint8 pixels and labels of the block that the position is in."""
        return self._current()

    def batch(self, size: int, seed: int, balanced: bool) -> tuple[Tensor, Tensor]:
        """Return the next rows of the shuffled blocks; balanced, a draw from the current one."""
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
        rows = draw_balanced([mine for mine in of_class if len(mine)], size, generator)
        batch = pixels[rows], labels[rows]
        self._use(size)
        return batch

    def _generator(self, *more: int) -> torch.Generator:
        return torch.Generator().manual_seed(
            mix(self._seed, Purpose.STREAM, self._epoch, self._row, *more)
        )

    def _current(self) -> tuple[Tensor, Tensor]:
        """Return the current block; read it first if it is a new one."""
        if self._block is None:
            if self._live is None:
                self._live = self._begin(self._epoch, self._row, shared=True)
            self._block = self._read_block(self._live[1])
        if self._block is None:
            if self._row == 0:
                raise DataError("the stream has no rows; give another split or data set")
            self._tell_of_missing_classes()
            self._epoch, self._row, self._state, self._live = self._epoch + 1, 0, None, None
            self._shown = self._none_shown()
            return self._current()
        return self._block

    def _read_block(self, examples: Iterator[Any]) -> tuple[Tensor, Tensor] | None:
        """Return the next block of a pass that has come to `self._row`; None at its end."""
        parts = []
        left, row = self._buffer_size, self._row
        while left and (piece := list(itertools.islice(examples, min(left, CHUNK)))):
            parts.append(self._read(piece, row))
            left -= len(piece)
            row += len(piece)
        return _join(parts) if parts else None

    def _use(self, count: int) -> None:
        """Count rows as used, and move on to the next block when all are."""
        assert self._block is not None
        assert self._live is not None
        self._used += count
        if self._used >= len(self._block[1]):
            self._row += len(self._block[1])
            if self._shown is not None:
                self._shown += torch.bincount(self._block[1], minlength=len(self._shown))
            self._state = self._live[0].state_dict()
            self._used, self._block = 0, None

    def _none_shown(self) -> Tensor:
        return torch.zeros(len(self._classes.names), dtype=torch.int64)

    def _tell_of_missing_classes(self) -> None:
        """Warn of classes of which a whole epoch had no image."""
        shown = self._none_shown() + 1 if self._shown is None else self._shown
        missing = [
            name
            for name, count in zip(self._classes.names, shown.tolist(), strict=True)
            if not count
        ]
        if missing and missing != self._missing:
            more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
            warnings.warn(
                f"the stream{self._part} showed no image of the classes "
                f"{', '.join(missing[:10])}{more} in the whole of epoch {self._epoch + 1}; check "
                "its source, or leave these out of `class_names`",
                stacklevel=2,
            )
        self._missing = missing

    def _begin(
        self, epoch: int = 0, row: int = 0, state: Any = None, *, shared: bool = False
    ) -> tuple[Any, Iterator[Any]]:
        """Return the data set and a pass over it from a row on, or from its own state there.

        With ``shared`` over this process's share.
        """
        dataset = copy.deepcopy(self._mine if shared else self._dataset)
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

    def scan(
        self, size: int, first: int = 0, stop: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the rows from `first` to before `stop`, in batches; the position stays."""
        for row, examples in self._pieces(size, first, stop):
            yield self._read(examples, row)

    def labels(self) -> Tensor:
        """Return the labels of all rows, in order; no image is decoded."""
        pieces = self._pieces(CHUNK)
        parts = [self._classes.encode(self._columns_of(some)[1], first_row=n) for n, some in pieces]
        return torch.cat(parts)

    def _pieces(
        self, size: int, first: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, list[Any]]]:
        """Yield pieces of the examples from `first` to before `stop`, after their first row."""
        _, examples = self._begin(row=first)
        if stop is not None:
            examples = itertools.islice(examples, stop - first)
        row = first
        while piece := list(itertools.islice(examples, size)):
            yield row, piece
            row += len(piece)

    def sample(self, size: int) -> Iterator[Tensor]:
        """Yield batches of the pixels of the first block."""
        if self._epoch == 0 and self._row == 0:
            yield from self._current()[0].split(size)
            return
        left = self._buffer_size
        for row, examples in self._pieces(size):
            yield self._read(examples[:left], row)[0]
            left -= len(examples)
            if left <= 0:
                return

    def sample_of_classes(self, size: int, at_least: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of the first rows of each class."""
        limit = max(SAMPLE_PER_CLASS, at_least)
        seen = [0] * len(self._classes.names)
        for first_row, examples in self._pieces(size):
            values, raw_labels = self._columns_of(examples)
            labels = self._classes.encode(raw_labels, first_row=first_row)
            wanted = []
            for index, label in enumerate(labels.tolist()):
                if seen[label] < limit:
                    wanted.append(index)
                seen[label] += 1
            if wanted:
                rows = [first_row + index for index in wanted]
                yield self._reader.read([values[index] for index in wanted], rows), labels[wanted]
            if min(seen) >= limit:
                return

    def of_each_class(self, per_class: int, seed: int) -> tuple[Tensor, Tensor]:
        """Draw from each class by reservoir sampling (Vitter 1985, algorithm R), undecoded."""
        random_numbers = random.Random(seed)
        count = len(self._classes.names)
        seen = [0] * count
        kept: list[list[tuple[int, Any]]] = [[] for _ in range(count)]
        for first_row, examples in self._pieces(CHUNK):
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
        require(torch.tensor(seen), per_class, self._classes.names)
        drawn = [pair for of_class in kept for pair in of_class]
        pixels = self._reader.read([value for _, value in drawn], [row for row, _ in drawn])
        return pixels, torch.arange(count).repeat_interleave(per_class)

    def class_counts(self) -> list[int] | None:
        """Return None: a stream does not know."""
        return None

    def length(self) -> int | None:
        """Return None: a stream does not know."""
        return None

    def position(self) -> dict[str, Any] | None:
        """Return where the current block begins, how much of it is used, and what it holds."""
        block = self._current()  # the next batch wants it anyway
        return {
            "checksum": _checksum(block),
            "epoch": self._epoch,
            "row": self._row,
            "used": self._used,
            "shown": None if self._shown is None else self._shown.tolist(),
            "state": self._state,
            "seed": self._seed,
            "buffer_size": self._buffer_size,
        }

    def restore(self, position: Mapping[str, Any] | None) -> None:
        """Go back to a position, and check that the stream shows the same rows there."""
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
        shown = position.get("shown")  # not in checkpoints of 0.1.0
        self._shown = None if shown is None else torch.tensor(shown, dtype=torch.int64)
        # A state can be inexact: it leaves out, for one, what is in a shuffle buffer of the data
        # set's own. Then all rows up to the position are read again.
        for state in (self._state, None):
            self._live = self._begin(self._epoch, self._row, state, shared=True)
            self._block = self._read_block(self._live[1])
            if self._block is not None and _checksum(self._block) == position["checksum"]:
                return
        raise DataError(
            f"the stream does not show the images that it showed before at row {self._row}, so the "
            "run cannot resume as it was; a stream must repeat itself: give its shuffling a seed, "
            "and leave out random transforms"
        )


def _checksum(block: tuple[Tensor, Tensor]) -> int:
    pixels, labels = block
    return zlib.crc32(labels.numpy().data, zlib.crc32(pixels.numpy().data))


def _join(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([pixels for pixels, _ in parts]), torch.cat([labels for _, labels in parts])
