"""The columns of a labeled image data set: which one holds the images, and which one the labels.

Data sets of the ecosystem agree on little: columns are named `image`, `img` or `pixel_values`,
labels are `ClassLabel`s, numbers or words. `find_columns` says where to look, and `classes` turns
labels into indices. What cannot be used is a `DataError` that names the remedy. The first step of
`real`; nothing here knows images, which are for `pixels`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

IMAGE_NAMES = ("image", "images", "img", "imgs", "pixel_values", "pixels", "picture", "photo")
LABEL_NAMES = (
    "label", "labels", "class", "classes", "target", "targets", "category", "y",
    "fine_label", "fine_labels", "coarse_label", "coarse_labels", "cls", "digit",
)  # fmt: skip


class DataError(ValueError):
    """The data set cannot be used as it is; the message says why and what to do."""


class MissingSplitError(DataError):
    """The data set can be read, but has no split of that name."""


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
    """Find the columns of images and labels.

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
        asked=image_column,
        typed=[name for name, feature in features.items() if isinstance(feature, ImageFeature)],
        possible=[name for name, feature in features.items() if _may_hold_images(feature)],
        usual=IMAGE_NAMES,
    )
    typed = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    possible = [name for name, feature in features.items() if _may_hold_labels(feature)]
    if label_column is not None or not any(
        name.lower() in LABEL_NAMES for name in typed + possible
    ):
        # Lists of one number each, as MedMNIST has them; `Classes.encode` sees whether it is one.
        listed = [name for name, feature in features.items() if _may_hold_labels(_inside(feature))]
        possible += listed
    label = _choose(
        "label", features, asked=label_column, typed=typed, possible=possible, usual=LABEL_NAMES
    )
    if image == label:
        raise DataError(f"`image_column` and `label_column` must differ, got {image!r} for both")
    names = getattr(_inside(features[label]) or features[label], "names", None)
    channels = {"L": 1, "RGB": 3}.get(getattr(features[image], "mode", None) or "")
    return Columns(image, label, list(names) if names else None, channels)


def _choose(
    what: str,
    features: Mapping[str, Any],
    *,
    asked: str | None,
    typed: list[str],
    possible: list[str],
    usual: Sequence[str],
) -> str:
    """Return the column that was asked for, or the one that is meant by its type or its name."""
    columns = ", ".join(f"{name} ({_describe(feature)})" for name, feature in features.items())
    if asked is not None:
        if asked not in features:
            raise DataError(f"there is no column {asked!r}; columns: {columns}")
        if asked not in possible:
            raise DataError(
                f"`{what}_column` is {asked!r}, whose type {_describe(features[asked])} cannot "
                f"hold {what}s; columns: {columns}"
            )
        return asked
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
    raise DataError(f"{problem}; name it with `{what}_column`; columns: {columns or 'none'}")


def _only_images(features: Mapping[str, Any]) -> bool:
    """Return whether all columns are images, as of files that `datasets` reads without classes."""
    return all(type(feature).__name__ == "Image" for feature in features.values())


def _feature_of(value: Any) -> Any:
    """Return the feature of a value in a stream that declares none."""
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
    """Return the feature of the items of a list; None for other features, and for long lists."""
    if isinstance(feature, list) and len(feature) == 1:  # as `datasets` wrote it before 4.0
        return feature[0]
    if type(feature).__name__ in ("List", "LargeList", "Sequence"):
        return feature.feature if getattr(feature, "length", -1) in (-1, 1) else None
    return None
