"""What a labelled image data set holds: which column is what, and which classes there are.

Data sets of the ecosystem agree on little: columns are named `image`, `img` or `pixel_values`,
labels are `ClassLabel`s, numbers or words. Here this ends: `find_columns` says where to look, and
`Classes` turns labels into indices. What cannot be used is a `DataError` that names the row and the
remedy. The first step of `real`; nothing here knows images, which are for `pixels`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

IMAGE_NAMES = ("image", "images", "img", "imgs", "pixel_values", "pixels", "picture", "photo")
LABEL_NAMES = (
    "label", "labels", "class", "classes", "target", "targets", "category", "y",
    "fine_label", "fine_labels", "coarse_label", "coarse_labels", "cls", "digit",
)  # fmt: skip


class DataError(ValueError):
    """The data set cannot be used as it is; the message says why and what to do."""


class MissingSplitError(DataError):
    """The data set can be read, but has no split of that name."""


# --- columns ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Columns:
    """Where images and labels are, and what the columns' types declare.

    Attributes:
        image: the column's name.
        label: the column's name.
        class_names: of a `ClassLabel`, otherwise None.
        channels: 1 or 3 if the `Image` feature says so by its mode, otherwise None.
    """

    image: str
    label: str
    class_names: list[str] | None = None
    channels: int | None = None


def find_columns(
    dataset: Any, *, image_column: str | None = None, label_column: str | None = None
) -> Columns:
    """Finds the columns of images and labels.

    A column of type `datasets.Image` (`ClassLabel` for the labels) is taken first. If no column is
    of that type, one with a usual name (`IMAGE_NAMES`, `LABEL_NAMES`) is; if several are, a usual
    name decides between them.

    Args:
        dataset: a `datasets.Dataset` or `datasets.IterableDataset`. Where a stream does not tell
            its features, the first example is looked at.
        image_column: the column to use, instead of searching.
        label_column: the same for the labels.

    Raises:
        DataError: no column, or several, could be meant; or a given one is not there or holds
            something else. The message lists the columns.
    """
    from datasets import ClassLabel, Features
    from datasets import Image as ImageFeature

    features: Mapping[str, Any] | None = dataset.features
    if features is None:
        example = next(iter(dataset), None)
        if example is None:
            raise DataError("the data set has no rows; give another split or data set")
        features = {name: _feature_of(value) for name, value in example.items()}
    elif not isinstance(features, Features):
        raise TypeError(f"`dataset.features` must be datasets.Features, got {type(features)}")

    image = _choose(
        "image",
        features,
        image_column,
        [name for name, feature in features.items() if isinstance(feature, ImageFeature)],
        [name for name, feature in features.items() if _may_hold_images(feature)],
        IMAGE_NAMES,
    )
    typed = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    possible = [name for name, feature in features.items() if _may_hold_labels(feature)]
    if label_column is not None or not any(
        name.lower() in LABEL_NAMES for name in typed + possible
    ):
        # Lists of one number each, as MedMNIST has them; `Classes.encode` sees whether it is one.
        listed = [name for name, feature in features.items() if _may_hold_labels(_inside(feature))]
        possible += listed
    label = _choose("label", features, label_column, typed, possible, LABEL_NAMES)
    if image == label:
        raise DataError(f"`image_column` and `label_column` must differ, got {image!r} for both")
    names = getattr(_inside(features[label]) or features[label], "names", None)
    channels = {"L": 1, "RGB": 3}.get(getattr(features[image], "mode", None) or "")
    return Columns(image, label, list(names) if names else None, channels)


def _choose(
    what: str,
    features: Mapping[str, Any],
    given: str | None,
    typed: list[str],
    possible: list[str],
    usual: Sequence[str],
) -> str:
    there = ", ".join(f"{name} ({_describe(feature)})" for name, feature in features.items())
    if given is not None:
        if given not in features:
            raise DataError(f"there is no column {given!r}; columns: {there}")
        if given not in possible:
            raise DataError(
                f"`{what}_column` is {given!r}, whose type {_describe(features[given])} cannot "
                f"hold {what}s; columns: {there}"
            )
        return given
    named = [name for name in (typed or possible) if name.lower() in usual]
    candidates = typed if len(typed) == 1 else named or typed
    if len(candidates) == 1:
        return candidates[0]
    if what == "label" and _only_images(features):
        raise DataError(
            f"the data set has images ({', '.join(features)}) and no labels; give one with a "
            "column of labels, or sort the image files into at least two folders, one per class"
        )
    problem = (
        f"{len(candidates)} columns may be the {what}s ({', '.join(candidates)})"
        if candidates
        else f"no {what} column found"
    )
    raise DataError(f"{problem}; name it with `{what}_column`; columns: {there or 'none'}")


def _only_images(features: Mapping[str, Any]) -> bool:
    """Whether no column could be named as the labels: so `datasets` reads files without classes."""
    return all(type(feature).__name__ == "Image" for feature in features.values())


def _feature_of(value: Any) -> Any:
    """The feature of a value in a stream that declares none."""
    from datasets import Image as ImageFeature
    from datasets import Value

    if isinstance(value, Image.Image) or (isinstance(value, Mapping) and {"bytes"} <= set(value)):
        return ImageFeature()
    for kind, dtype in ((bool, "bool"), (int, "int64"), (float, "float64"), (str, "string")):
        if isinstance(value, kind):
            return Value(dtype)
    if isinstance(value, bytes):
        return Value("binary")
    if isinstance(value, (list, tuple, np.ndarray)) and np.ndim(value) == 1 and len(value) == 1:
        return [_feature_of(value[0])]
    return Value("int64") if isinstance(value, np.integer) else type(value).__name__


def _describe(feature: Any) -> str:
    dtype = getattr(feature, "dtype", None)
    kind = type(feature).__name__
    if isinstance(feature, str):
        return feature
    return str(dtype) if kind == "Value" else kind


def _may_hold_images(feature: Any) -> bool:
    if type(feature).__name__ == "Value":
        return feature.dtype in ("binary", "large_binary", "string", "large_string")
    return type(feature).__name__ not in ("ClassLabel", "dict", "Audio", "Video", "Translation")


def _may_hold_labels(feature: Any) -> bool:
    if type(feature).__name__ == "Value":
        return feature.dtype == "bool" or feature.dtype.startswith(
            ("int", "uint", "string", "large_string")
        )
    return type(feature).__name__ == "ClassLabel"


def _inside(feature: Any) -> Any:
    """The feature of the items of a list; None for other features, and for long lists."""
    if isinstance(feature, list) and len(feature) == 1:  # as `datasets` wrote it before 4.0
        return feature[0]
    if type(feature).__name__ in ("List", "LargeList", "Sequence"):
        return feature.feature if getattr(feature, "length", -1) in (-1, 1) else None
    return None


# --- classes ------------------------------------------------------------------------------------


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
        """Works out the classes.

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
        """Class indices, int64 of shape (N,), of labels as the data set has them.

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
    """The label in a list or an array that holds one only; what else there is as it is."""
    while isinstance(label, (list, tuple)) and len(label) == 1:
        label = label[0]
    return label.item() if isinstance(label, np.ndarray) and label.size == 1 else label


def as_names(classes: Sequence[Any]) -> list[str]:
    """What a data set calls its classes, as text.

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
    """Index in the given names of each label."""
    index = {name: position for position, name in enumerate(names)}
    in_order: dict[Any, int] = {position: position for position in range(len(names))}
    if declared:
        missing = [name for name in declared if name not in index]
        if not missing:
            return {label: index[name] for label, name in enumerate(declared)}
        if len(missing) == len(declared) == len(names):
            return in_order  # other names for the same classes
        there = set(range(len(declared))) if values is None else _numbers(values)
        if len(missing) < len(declared) and not any(declared.index(n) in there for n in missing):
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
    """Sorted distinct labels; whatever cannot be one is left for `Classes.encode` to name."""
    found: set[Any] = set()
    for value in values:
        if isinstance(value, (str, int, np.integer)) and not (
            isinstance(value, (int, np.integer)) and value < 0
        ):
            found.add(value)
    if any(isinstance(value, str) for value in found) and not all(
        isinstance(value, str) for value in found
    ):
        raise DataError("labels must be all numbers or all words, got both; pass `class_names`")
    return sorted(found)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
