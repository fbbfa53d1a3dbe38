"""Handwritten digits that need no network: the ones that scikit-learn carries along.

`dd-plugin distill` runs on them when no data set is named. They are 1,797 images of 8 x 8 pixels in
ten classes (Alpaydin and Kaynak, UCI Machine Learning Repository, 1998). `load_digits` returns the
kind of object that `datasets.load_dataset` returns. `digit_images` has the same images as arrays,
for runs, which then import neither scikit-learn nor `datasets`.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dd_plugin.data.real.columns import DataError, MissingSplitError

CLASSES = [str(number) for number in range(10)]
# Of five consecutive images of a class, where each goes: 60, 20 and 20 percent.
_TURNS = ("train", "train", "train", "validation", "test")
_SPLITS = ("train", "validation", "test")
# Images, and the pixels of each with its label.
_SHAPE = (1797, 8 * 8 + 1)

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


class DigitImages(Sequence[tuple[Pixels, int]]):
    """The images of a split, (8, 8), with their labels.

    Attributes:
        classes: names of the classes 0, 1, 2, ...
    """

    classes = CLASSES

    def __init__(self, pixels: Pixels, labels: list[int]) -> None:
        self.pixels = pixels
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: Any) -> Any:
        return self.pixels[row], self.labels[row]


def digit_images(split: str | None) -> DigitImages:
    """Return the digits of a split, as `load_digits` has them.

    Raises:
        ImportError: scikit-learn is not installed.
        DataError: the split is not named.
        MissingSplitError: there is no such split.
    """
    if split not in _SPLITS:
        known = ", ".join(map(repr, _SPLITS))
        if split is None:
            raise DataError(f"`split` must say which part of the data set to take: {known}")
        raise MissingSplitError(f"there is no split {split!r}; there are {known}")
    pixels, labels = _bundled(_file())
    rows = [row for row, its_split in enumerate(_splits_of(labels)) if its_split == split]
    return DigitImages(pixels[rows], [labels[row] for row in rows])


def load_digits() -> Any:
    """Return the digits as a `datasets.DatasetDict` with splits train, validation and test.

    The splits are the same each time, and each has as many images of each class as the others, in
    proportion. Gray values 0 to 16 are scaled to 0 to 255 and rounded.

    Returns:
        Columns `image` (`datasets.Image`, 8 x 8, gray) and `label` (`ClassLabel` 0 to 9).

    Raises:
        ImportError: scikit-learn is not installed.
    """
    images = {split: digit_images(split) for split in _SPLITS}
    from datasets import ClassLabel, Dataset, DatasetDict, Features, NamedSplit
    from datasets import Image as ImageFeature

    features = Features(image=ImageFeature(), label=ClassLabel(names=CLASSES))
    return DatasetDict(
        {
            split: Dataset.from_dict(
                {"image": [Image.fromarray(one) for one in part.pixels], "label": part.labels},
                features=features,
                split=NamedSplit(split),
            )
            for split, part in images.items()
        }
    )


def _splits_of(labels: list[int]) -> list[str]:
    """Return the split of every image."""
    seen = [0] * len(CLASSES)
    splits = []
    for label in labels:
        splits.append(_TURNS[seen[label] % len(_TURNS)])
        seen[label] += 1
    return splits


def _file() -> Path:
    """Return where scikit-learn has the digits.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            "the bundled digits come with scikit-learn; run `pip install scikit-learn`, or name "
            "another data set"
        )
    return Path(spec.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")


@cache
def _bundled(file: Path) -> tuple[Pixels, list[int]]:
    """Return all images, (1797, 8, 8), and their labels.

    From the file itself: the import of scikit-learn takes seconds. Where the file is not as it was,
    scikit-learn reads it.
    """
    table = _read(file)
    if table is None:
        from sklearn import datasets as bundled

        values, labels = bundled.load_digits(return_X_y=True)
        table = np.column_stack([values, labels])
    pixels = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return pixels, table[:, -1].astype(int).tolist()


def _read(file: Path) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """Return the pixels and the label of each image, or None if they are not in the file."""
    try:
        lines = gzip.decompress(file.read_bytes()).decode().splitlines()
        table = np.loadtxt(lines, delimiter=",") if len(lines) == _SHAPE[0] else None
    except (OSError, EOFError, ValueError, zlib.error):
        return None
    return table if table is not None and table.shape == _SHAPE else None
