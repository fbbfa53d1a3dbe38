"""Columns are found or asked for; where that fails, the error lists them."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, List, Value
from PIL import Image as PILImage

from dd_plugin.data.real.columns import DataError, find_columns


def dataset(**features):
    return Dataset.from_dict({name: [] for name in features}, features=Features(features))


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"a": Image(), "b": ClassLabel(names=["x", "y"])}, ("a", "b")),
        ({"img": Image(), "label": Value("int64")}, ("img", "label")),
        ({"pixel_values": Value("binary"), "Label": Value("string")}, ("pixel_values", "Label")),
        # Several of the right type: the usual name decides.
        ({"mask": Image(), "image": Image(), "label": Value("int8")}, ("image", "label")),
        (
            {"image": Image(), "label": ClassLabel(names=["a"]), "part": ClassLabel(names=["b"])},
            ("image", "label"),
        ),
        # The right type wins over the usual name.
        ({"photo": Image(), "image": Value("string"), "y": Value("bool")}, ("photo", "y")),
    ],
)
def test_columns_are_found(features, expected):
    found = find_columns(dataset(**features))
    assert (found.image, found.label) == expected


def test_declared_names_and_mode_are_kept():
    found = find_columns(dataset(image=Image(mode="RGB"), label=ClassLabel(names=["x", "y"])))
    assert found.class_names == ["x", "y"]
    assert found.channels == 3


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            {"x": Value("float32"), "label": Value("int64")},
            r"no image column found.*`image_column`",
        ),
        ({"image": Image(), "score": Value("float32")}, r"no label column.*`label_column`.*score"),
        (
            {"left": Image(), "right": Image(), "label": Value("int64")},
            r"2 columns may be the images \(left, right\)",
        ),
        (
            {
                "image": Image(),
                "fine_label": ClassLabel(names=["a"]),
                "coarse_label": ClassLabel(names=["b"]),
            },
            r"2 columns may be the labels \(fine_label, coarse_label\); name it with `label_c",
        ),
    ],
)
def test_none_or_several_columns_are_an_error_that_lists_them(features, message):
    with pytest.raises(DataError, match=message) as raised:
        find_columns(dataset(**features))
    for name in features:
        assert name in str(raised.value)


def test_images_without_labels_are_not_about_a_column_to_name():
    with pytest.raises(DataError, match=r"column of labels, or sort .* two folders, one per class"):
        find_columns(dataset(image=Image()))


def test_given_columns_are_checked():
    data = dataset(image=Image(), fine=ClassLabel(names=["a"]), score=Value("float32"))
    assert find_columns(data, label_column="fine").label == "fine"
    with pytest.raises(DataError, match="no column 'klass'; columns: image"):
        find_columns(data, label_column="klass")
    with pytest.raises(DataError, match="'score', whose type float32 cannot hold labels"):
        find_columns(data, label_column="score")
    with pytest.raises(DataError, match="'fine', whose type ClassLabel cannot hold images"):
        find_columns(data, image_column="fine")
    words = dataset(a=Value("string"), b=Value("string"))
    with pytest.raises(DataError, match="must differ"):
        find_columns(words, image_column="a", label_column="a")


def test_stream_without_features_is_looked_at():
    image = PILImage.new("L", (2, 2))
    stream = IterableDataset.from_generator(lambda: iter([{"img": image, "y": 1, "id": 0.5}]))
    found = find_columns(stream)
    assert (found.image, found.label, found.class_names) == ("img", "y", None)
    with pytest.raises(DataError, match="no rows"):
        find_columns(IterableDataset.from_generator(lambda: iter([])))


@pytest.mark.parametrize("label", [[1], np.array([1])])
def test_stream_without_features_may_have_lists_of_one_label(label):
    image = PILImage.new("L", (2, 2))
    stream = IterableDataset.from_generator(lambda: iter([{"img": image, "label": label}]))
    assert find_columns(stream).label == "label"


@pytest.mark.parametrize(
    ("inner", "names"),
    [(Value("uint8"), None), (Value("string"), None), (ClassLabel(names=["a", "b"]), ["a", "b"])],
)
@pytest.mark.parametrize("length", [-1, 1])
def test_columns_of_lists_of_one_label(inner, names, length):
    data = dataset(image=Image(), label=List(inner, length=length), boxes=List(Value("float32")))
    found = find_columns(data)
    assert (found.label, found.class_names) == ("label", names)
    # A label of its own comes first, unless the list is asked for.
    both = dataset(image=Image(), labels=List(inner), label=Value("int64"))
    assert find_columns(both).label == "label"
    assert find_columns(both, label_column="labels").label == "labels"
    with pytest.raises(DataError, match="no label column"):
        find_columns(dataset(image=Image(), label=List(inner, length=2)))
