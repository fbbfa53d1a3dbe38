"""The classes of a data set: their names in order, and the index of each label.

After `columns`, which says where the labels are. `Classes.encode` turns labels into indices. A
label that is no class is a `DataError` that names the row and the remedy.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dd_plugin.data.real.columns import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Classes:
    """The classes: their names in order, and the index that each label of the data set has."""

    names: list[str]
    lookup: Mapping[Any, int]

    @classmethod
    def make(
        cls,
        *,
        declared: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
        values: Sequence[Any] | None = None,
    ) -> Classes:
        """Make the classes of a data set.

        Args:
            declared: the names that the data set itself gives to the labels 0, 1, 2, ..., as a
                `ClassLabel` does.
            class_names: the names and their order, e.g. those of the training data when this is a
                test set. Labels are matched to them by name where all their names are among them
                (a `ClassLabel`'s names, words, or numbers as they are written); otherwise the given
                names are taken for the labels 0, 1, 2, ... Names that are numbers stand for those
                labels, unless not a single label is among them.
            values: all labels, when they are in memory. Without any names the classes are the
                distinct ones, sorted.

        Raises:
            DataError: there are fewer than two classes, names appear twice, or the names of the
                data set and the given ones are different sets that overlap.
        """
        declared = list(declared or ())
        values = None if values is None else [_single(value) for value in values]
        if class_names is not None:
            names = [str(name) for name in class_names]
            lookup = _match(names, declared, values)
        elif declared:
            names, lookup = declared, {index: index for index in range(len(declared))}
        elif values is None:
            raise DataError(
                "the labels of this stream do not say which classes there are; pass `class_names`"
            )
        else:
            distinct = _distinct(values)
            names = [str(value) for value in distinct]
            lookup = {value: index for index, value in enumerate(distinct)}
            if len(names) < 2:
                cls(names, lookup).encode(values)  # labels that are none would be the reason
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise DataError(f"class names must differ, got {', '.join(repeated)} more than once")
        if len(names) < 2:
            raise DataError(
                f"there must be at least two classes, got {len(names)} ({', '.join(names)}); "
                "take another split or label column, or pass `class_names`"
            )
        return cls(names, lookup)

    def encode(self, labels: Iterable[Any], *, first_row: int = 0) -> Tensor:
        """Return class indices, int64 of shape (N,), of labels as the data set has them.

        Args:
            labels: one per row.
            first_row: the row of the first one, for the message.

        Raises:
            DataError: a label is missing, unknown, or not a class at all; with its row.
        """
        indices = []
        for row, label in enumerate(map(_single, labels), start=first_row):
            try:
                index = self.lookup.get(label)
            except TypeError:  # unhashable: several labels, or a box
                index = None
            if index is None:
                raise DataError(f"row {row} {self._complaint(label)}")
            indices.append(index)
        return torch.tensor(indices, dtype=torch.int64)

    def _complaint(self, label: Any) -> str:
        if label is None:
            return "has no label (None); remove rows without one, e.g. with dataset.filter"
        if isinstance(label, (list, tuple, dict, np.ndarray)):
            return f"has the label {_short(label)}; there must be one class per image"
        if isinstance(label, (int, np.integer)) and label < 0:
            return (
                f"has the label {label}; negative labels mark rows without a class, as in test "
                "splits whose labels are withheld: take another split, or filter them out"
            )
        numbers = [value for value in self.lookup if not isinstance(value, str)]
        shown = numbers if numbers and isinstance(label, (int, np.integer)) else list(self.lookup)
        known = (
            f"0 to {len(self.names) - 1}"
            if numbers == list(range(len(self.names)))
            else ", ".join(repr(value) for value in shown[:10])
        )
        return (
            f"has the label {_short(label)}, the {len(self.names)} classes have {known}; leave out "
            "such rows, e.g. with dataset.filter, or give all classes their names"
        )


def _single(label: Any) -> Any:
    """Return the label in a list or an array of one label, and anything else as it is."""
    while isinstance(label, (list, tuple)) and len(label) == 1:
        label = label[0]
    return label.item() if isinstance(label, np.ndarray) and label.size == 1 else label


def as_names(classes: Sequence[Any]) -> list[str]:
    """Return the names of a data set's classes as text.

    Of several words for a class, as torchvision's ImageNet has them, it is the first one; where
    that is another class's as well (ImageNet has two cranes), with the number of the class.
    """
    several = [isinstance(each, (tuple, list)) and len(each) > 0 for each in classes]
    names = [str(c[0] if many else c) for c, many in zip(classes, several, strict=True)]
    return [
        f"{name} ({index})" if many and names.count(name) > 1 else name
        for index, (name, many) in enumerate(zip(names, several, strict=True))
    ]


def _match(names: list[str], declared: list[str], values: Iterable[Any] | None) -> dict[Any, int]:
    """Return the index of each label among the names."""
    index = {name: position for position, name in enumerate(names)}
    in_order: dict[Any, int] = {position: position for position in range(len(names))}
    if declared:
        missing = [name for name in declared if name not in index]
        if not missing:
            return {label: index[name] for label, name in enumerate(declared)}
        if len(missing) == len(declared) == len(names):
            # Other names for the same classes, or other classes.
            pairs = ", ".join(
                f"{d!r} as {n!r}" for d, n in [*zip(declared, names, strict=True)][:10]
            )
            _say_once(f"classes have other names here, and are taken by their order: {pairs}")
            return in_order
        present = set(range(len(declared))) if values is None else _numbers(values)
        if len(missing) < len(declared) and not any(declared.index(n) in present for n in missing):
            # Names that are left of rows that are not: `filter` keeps all names.
            return {label: index[name] for label, name in enumerate(declared) if name in index}
        raise DataError(
            f"`class_names` must hold all classes of the data set or rename all {len(declared)}; "
            f"not among the given ones: {', '.join(missing[:10])}; leave out the rows of these, "
            "e.g. with dataset.filter, or name them too"
        )
    by_text: dict[Any, int] = dict(index)
    distinct = _numbers(values or ())
    if all(name.isdecimal() for name in names) and len(set(map(int, names))) == len(names):
        # Names that were made of the numbers of a table without names. A label that is none of them
        # is for `Classes.encode` to name: by its place it would be another class.
        by_value = {int(name): position for name, position in index.items()}
        numbers = {value for value in distinct if not isinstance(value, bool)}
        if values is None or not numbers.isdisjoint(by_value):
            return {**by_text, **by_value}
    if values is None:
        return {**in_order, **by_text}
    if distinct and all(str(value) in index for value in distinct):
        return {**by_text, **{value: index[str(value)] for value in distinct}}
    return {**in_order, **by_text}


def _numbers(values: Iterable[Any]) -> set[Any]:
    return {value for value in values if isinstance(value, (int, np.integer))}


def _distinct(values: Iterable[Any]) -> list[Any]:
    """Return the distinct labels, sorted. `Classes.encode` complains of what cannot be one."""
    distinct: set[Any] = set()
    for value in values:
        if isinstance(value, (str, int, np.integer)) and not (
            isinstance(value, (int, np.integer)) and value < 0
        ):
            distinct.add(value)
    if any(isinstance(value, str) for value in distinct) and not all(
        isinstance(value, str) for value in distinct
    ):
        raise DataError("labels must be all numbers or all words, got both; pass `class_names`")
    return sorted(distinct)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


@functools.lru_cache
def _say_once(message: str) -> None:
    logger.warning(message)
