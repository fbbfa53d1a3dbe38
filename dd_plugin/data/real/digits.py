"""Handwritten digits that need no network: the ones that scikit-learn carries along.

`dd-plugin distill` runs on them when no data set is named. They are 1,797 images of 8 x 8 pixels in
ten classes (Alpaydin and Kaynak, UCI Machine Learning Repository, 1998). They come as an object of
the kind that `datasets.load_dataset` returns, so everything downstream takes the usual way.
"""

from typing import Any

import numpy as np
from PIL import Image

# Of five consecutive images of a class, where each goes: 60, 20 and 20 percent.
_TURNS = ("train", "train", "train", "validation", "test")


def load_digits() -> Any:
    """Return the digits as a `datasets.DatasetDict` with splits train, validation and test.

    The splits are the same each time, and each has as many images of each class as the others, in
    proportion. Gray values 0 to 16 are scaled to 0 to 255 and rounded.

    Returns:
        Columns `image` (`datasets.Image`, 8 x 8, gray) and `label` (`ClassLabel` 0 to 9).

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets as bundled
    except ImportError as error:
        raise ImportError(
            "the bundled digits come with scikit-learn; run `pip install scikit-learn`, or name "
            "another data set"
        ) from error
    from datasets import ClassLabel, Dataset, DatasetDict, Features, NamedSplit
    from datasets import Image as ImageFeature

    values, labels = bundled.load_digits(return_X_y=True)
    pixels = np.rint(values.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    splits: dict[str, dict[str, list[Any]]] = {
        name: {"image": [], "label": []} for name in ("train", "validation", "test")
    }
    seen = [0] * 10
    for image, label in zip(pixels, labels.tolist(), strict=True):
        split = splits[_TURNS[seen[label] % len(_TURNS)]]
        split["image"].append(Image.fromarray(image))
        split["label"].append(label)
        seen[label] += 1
    features = Features(image=ImageFeature(), label=ClassLabel(names=[str(n) for n in range(10)]))
    return DatasetDict(
        {
            name: Dataset.from_dict(columns, features=features, split=NamedSplit(name))
            for name, columns in splits.items()
        }
    )
