"""Rows with random access: drawn by seed, from memory or decoded when a batch wants them.

`open_rows` reads a source of `sources` and decides, by size, whether its pixels are kept. `Rows`
then draws: batches, images of each class, and the samples that statistics are taken of. `RealData`
holds either these or a stream (`streams`), which draws with the same functions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from dd_plugin.data.real.columns import DataError
from dd_plugin.data.real.median_size import median_size, sampled_rows
from dd_plugin.data.real.sources import CHUNK, ColorError, Options, Reader, SizesError, Source
from dd_plugin.data.real.tones import DepthError

SAMPLE_PER_CLASS: Final = 100  # images that stand for a class where reading all would take hours

_CHECKED = 1_000  # rows of a table that is not kept in memory that are tried before a run
_SAMPLE = 10_000  # rows that stand for all where reading all would take hours


def open_rows(
    source: Source, options: Options
) -> tuple[Callable[[Tensor], Tensor], tuple[int, int, int], bool]:
    """Return a function from indices to uint8 rows, (C, H, W), and whether all are in memory."""
    count = len(source)
    try:
        reader = Reader(source.images(range(1))[0], options)
        if count * reader.image_bytes > options.max_bytes:
            for row in range(0, count, -(-count // _CHECKED)):
                reader.read(source.images([row]), [row])
            reader.settle(options)
            return functools.partial(reader.read_rows, source), reader.shape, False
        pixels = torch.empty(count, *reader.shape, dtype=torch.uint8)
        for start in range(0, count, CHUNK):
            rows = range(start, min(start + CHUNK, count))
            pixels[start : rows.stop] = reader.read(source.images(rows), rows)
    except ColorError:
        options.channels = 3
        return open_rows(source, options)
    except SizesError:
        if options.largest_size is None:
            raise
        chosen = sampled_rows(count)
        size = median_size(source.images(chosen), chosen, options.largest_size)
        options.size, options.sizes_differ = (size, size), True
        return open_rows(source, options)
    except DepthError as error:
        options.white_so_far = error.white
        return open_rows(source, options)
    reader.settle(options)
    kept = pixels.to(options.device)
    return functools.partial(take, kept), reader.shape, True


def take(pixels: Tensor, rows: Tensor) -> Tensor:
    """Return rows of pixels in memory; the indices may be on another device."""
    return pixels.index_select(0, rows.to(pixels.device))


class Rows:
    """Rows in any order.

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

    def without_empty_classes(self) -> tuple[Rows, list[str]]:
        """Return the same rows without classes that have none, and the names of the others."""
        present = (self._counts > 0).nonzero()[:, 0]
        place = torch.full((len(self._names),), -1, dtype=torch.int64)
        place[present] = torch.arange(len(present))
        names = [self._names[index] for index in present.tolist()]
        return Rows(self._take, place[self._labels], names, self.in_memory), names

    def part(self, rows: Tensor) -> Rows:
        """Return some of the rows, in the order of their indices."""
        take = self._take
        return Rows(lambda some: take(rows[some]), self._labels[rows], self._names, self.in_memory)

    def batch(self, size: int, seed: int, balanced: bool) -> tuple[Tensor, Tensor]:
        """Return uint8 pixels and labels of random rows; see `RealData.batch`."""
        generator = torch.Generator().manual_seed(seed)
        if balanced:
            require(self._counts, 1, self._names)
            rows = draw_balanced(self._of_class, size, generator)
        else:
            rows = draw(len(self._labels), size, generator)
        return self._take(rows), self._labels[rows]

    def of_each_class(self, per_class: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return random rows of each class, sorted by class."""
        require(self._counts, per_class, self._names)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.cat([mine[draw(len(mine), per_class, generator)] for mine in self._of_class])
        return self._take(rows), self._labels[rows]

    def scan(
        self, size: int, first: int = 0, stop: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the rows from `first` to before `stop` in order, in batches."""
        for rows in torch.arange(len(self._labels))[first:stop].split(size):
            if len(rows):
                yield self._take(rows), self._labels[rows]

    def labels(self) -> Tensor:
        """Return the labels of all rows, in order."""
        return self._labels

    def sample(self, size: int) -> Iterator[Tensor]:
        """Yield batches of pixels that stand for all."""
        for rows in self._some(torch.arange(len(self._labels)), _SAMPLE).split(size):
            yield self._take(rows)

    def sample_of_classes(self, size: int, at_least: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches that stand for each class, with so many images of each if it has them."""
        limit = max(SAMPLE_PER_CLASS, at_least)
        rows = torch.cat([self._some(mine, limit) for mine in self._of_class])
        for part in rows.split(size):
            yield self._take(part), self._labels[part]

    def _some(self, rows: Tensor, limit: int) -> Tensor:
        """Return all rows if they are in memory, otherwise at most ``limit``, evenly spaced."""
        if self.in_memory or len(rows) <= limit:
            return rows
        return rows[torch.arange(limit) * len(rows) // limit]

    def class_counts(self) -> list[int]:
        """Return how many rows each class has."""
        return self._counts.tolist()

    def length(self) -> int | None:
        """Return how many rows there are."""
        return len(self._labels)

    def position(self) -> dict[str, Any] | None:
        """Return None: a draw depends on its seed alone."""
        return None

    def restore(self, position: Mapping[str, Any] | None) -> None:
        """Check that the position is not one in a stream."""
        if position is not None:
            raise DataError("the saved position is one in a stream, but the data is not streamed")


def draw(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Return `size` indices below `count`, each used equally often, give or take one."""
    rounds = -(-size // count)
    return torch.cat([torch.randperm(count, generator=generator) for _ in range(rounds)])[:size]


def draw_balanced(of_class: Sequence[Tensor], size: int, generator: torch.Generator) -> Tensor:
    """Return `size` rows in random order, equally many of each class, give or take one."""
    shares = torch.bincount(draw(len(of_class), size, generator), minlength=len(of_class))
    drawn = [
        rows[draw(len(rows), share, generator)]
        for rows, share in zip(of_class, shares.tolist(), strict=True)
        if share
    ]
    return torch.cat(drawn)[torch.randperm(size, generator=generator)]


def require_two_classes(counts: Tensor, names: Sequence[str]) -> None:
    """Raise a `DataError` if all images are of one class."""
    present = [name for name, count in zip(names, counts.tolist(), strict=True) if count]
    if len(present) == 1:
        raise DataError(
            f"the images must be of at least two classes, but all {int(counts.sum())} are of class "
            f"{present[0]!r}; give the whole data set, another split or another label column"
        )


def require(counts: Tensor, at_least: int, names: Sequence[str]) -> None:
    """Raise a `DataError` that names each class with fewer images."""
    short = [
        f"{name!r} has {count}"
        for name, count in zip(names, counts.tolist(), strict=True)
        if count < at_least
    ]
    if not short:
        return
    more = f" and {len(short) - 10} more" if len(short) > 10 else ""
    remedies = ["ask for fewer images per class"] if int(counts.max()) and at_least > 1 else []
    if not int(counts.min()):
        # The rows are gone already, the names are not: `filter` and slices keep them.
        remedies.append("pass the names of the classes that have images as `class_names`")
    else:
        remedies.append("leave out the rows of these classes, e.g. with dataset.filter")
    raise DataError(
        f"each class must have at least {at_least} images, but {', '.join(short[:10])}{more}; "
        f"{', '.join(remedies)}, or give more data"
    )
