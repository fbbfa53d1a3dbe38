"""Real data: what it says of itself, its statistics, and labels checked before any work."""

import copy
import pickle

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List
from PIL import Image as PILImage

from dd_plugin.data.real.columns import DataError
from dd_plugin.data.real.dataset import RealData
from tests.data.tables import NAMES, damaged, images, rows_of, table


def test_attributes(real):
    assert real.class_names == NAMES
    assert real.num_classes == 3
    assert real.shape == (1, 4, 5)
    assert len(real) == 30
    assert real.class_counts() == [10, 10, 10]
    assert "30 images, 3 classes" in repr(real)


def test_it_can_be_pickled_and_copied(real):
    for twin in (pickle.loads(pickle.dumps(real)), copy.deepcopy(real)):
        torch.testing.assert_close(twin.batch(5, 1), real.batch(5, 1))


def test_sizes_must_be_positive(real):
    with pytest.raises(ValueError, match="`size` must be at least 1, got 0"):
        real.batch(0, 1)
    with pytest.raises(ValueError, match="`per_class` must be at least 1"):
        real.of_each_class(0, 1)
    with pytest.raises(ValueError, match="`size`"):
        next(real.batches(0))


@pytest.mark.parametrize("options", [{}, {"max_bytes": 100}, {"streamed": True}])
def test_batches_are_on_the_device(options):
    dataset = table(images())
    if options.pop("streamed", False):
        dataset, options = dataset.to_iterable_dataset(), {"buffer_size": 8}
    real = RealData.from_dataset(dataset, device="meta", **options)
    for part in (*real.batch(4, 0), *real.of_each_class(2, 0), *next(real.batches(3))):
        assert part.device.type == "meta"


@pytest.mark.parametrize("label", [None, -1, 3])
def test_bad_label_is_found_at_once(label):
    dataset = table(images())
    labels = [*dataset["label"][:29], label]
    cells = dataset.with_format("arrow")[:]["image"].to_pylist()
    bad = Dataset.from_dict({"image": cells, "label": labels})
    features = Features(image=Image(), label=ClassLabel(names=NAMES))
    if label == 3:
        bad = bad.cast_column("image", Image())
        with pytest.raises(DataError, match="row 29 has the label 3, the 3 classes have 0 to 2"):
            RealData.from_dataset(bad, class_names=NAMES)
    else:
        with pytest.raises(DataError, match=f"row 29 has .*label.*{label}"):
            RealData.from_dataset(bad.cast(features))


def test_empty_and_one_class():
    with pytest.raises(DataError, match="the data set has no rows"):
        RealData.from_dataset(table(images()).select([]))
    with pytest.raises(DataError, match="split 'train' has no rows"):
        RealData.from_dataset(DatasetDict(train=table(images()).select([])), split="train")
    with pytest.raises(DataError, match="no rows"):
        RealData.from_dataset([])
    with pytest.raises(DataError, match=r"at least two classes, got 1 \(0\)"):
        RealData.from_dataset([(torch.zeros(1, 2, 2), 0)] * 3)


def test_classes_that_filter_left_without_rows():
    filtered = table(images(12), names=["ant", "bee", "cow"]).filter(lambda row: row["label"] != 1)
    real = RealData.from_dataset(filtered)
    assert (real.class_names, real.class_counts()) == (["ant", "bee", "cow"], [4, 0, 4])
    with pytest.raises(
        DataError, match=r"'bee' has 0; pass the names .* as `class_names`, or give"
    ):
        real.check_classes()
    # As the advice says.
    named = RealData.from_dataset(filtered, class_names=["ant", "cow"])
    assert real.leave_out_empty_classes() == ["bee"]
    for each in (real, named):
        each.check_classes(4)
        assert (each.class_names, each.num_classes, each.class_counts()) == (
            ["ant", "cow"],
            2,
            [4] * 2,
        )
        batch, labels = each.batch(8, 0)
        assert labels.tolist() == [row % 3 // 2 for row in rows_of(batch)]
        assert each.of_each_class(2, 0)[1].tolist() == [0, 0, 1, 1]
    assert real.leave_out_empty_classes() == []
    # One class is no less wrong than three of which two are empty.
    one = RealData.from_dataset(filtered.filter(lambda row: row["label"] == 2))
    assert one.leave_out_empty_classes() == []
    assert one.num_classes == 3


@pytest.mark.parametrize("kind", ["arrays", "tensors", "table", "stream"])
def test_labels_that_are_arrays_of_one_number(kind):
    pixels = images(6)
    if kind == "arrays":
        data = [(each, np.array([row % 3])) for row, each in enumerate(pixels)]
    elif kind == "tensors":
        data = [
            (each, torch.tensor([row % 3]))
            for row, each in enumerate(torch.from_numpy(pixels[:, None]))
        ]
    else:
        features = Features(image=Image(), label=List(ClassLabel(names=NAMES)))
        columns = {"image": [PILImage.fromarray(each) for each in pixels]}
        columns["label"] = [[row % 3] for row in range(6)]
        data = Dataset.from_dict(columns, features=features)
        data = data.to_iterable_dataset() if kind == "stream" else data
    real = RealData.from_dataset(data)
    _, labels = next(real.batches(6))
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert real.class_names == (["0", "1", "2"] if kind in ("arrays", "tensors") else NAMES)


def streamed(count=30):
    dataset = table(images(count)).to_iterable_dataset()
    return RealData.from_dataset(dataset, channels=1, buffer_size=8)


@pytest.mark.parametrize("size", [1, 4, 100])
@pytest.mark.parametrize(("first", "stop"), [(0, None), (0, 7), (5, 17), (29, 30), (7, 7), (3, 99)])
def test_batches_of_some_rows(real, size, first, stop):
    expected = list(range(30))[first:stop]
    for data in (real, streamed()):
        parts = list(data.batches(size, first=first, stop=stop))
        assert [row for pixels, _ in parts for row in rows_of(pixels)] == expected
        assert [label for _, labels in parts for label in labels.tolist()] == [
            row % 3 for row in expected
        ]
        assert all(len(labels) == size for _, labels in parts[:-1])


def test_labels_are_those_of_the_batches(real):
    for data in (real, streamed()):
        assert data.labels().tolist() == [row % 3 for row in range(30)]


def test_the_labels_of_a_stream_are_read_without_its_images():
    broken = damaged(table(images()), 20).to_iterable_dataset()
    data = RealData.from_dataset(broken, channels=1, buffer_size=8)
    assert data.labels().tolist() == [row % 3 for row in range(30)]


def test_the_fingerprint_is_of_the_content_alone(real):
    plain = RealData.from_dataset(table(images())).fingerprint()
    assert len(plain) == 64
    assert real.fingerprint() == plain
    assert streamed().fingerprint() == plain
    other_names = RealData.from_dataset(table(images(), names=["x", "y", "z"]))
    assert other_names.fingerprint() == plain


def test_every_pixel_and_label_is_in_the_fingerprint():
    plain = RealData.from_dataset(table(images())).fingerprint()
    seen = {plain}
    for row, column in ((0, 1), (13, 7), (29, 19)):
        pixels = images()
        pixels.reshape(30, -1)[row, column] ^= 1
        seen.add(RealData.from_dataset(table(pixels)).fingerprint())
    for row in (0, 29):
        labels = [each % 3 for each in range(30)]
        labels[row] = (labels[row] + 1) % 3
        seen.add(RealData.from_dataset(table(images(), labels)).fingerprint())
    # The same bytes in another order and in another shape.
    seen.add(RealData.from_dataset(table(images()[::-1].copy())).fingerprint())
    seen.add(RealData.from_dataset(table(images().reshape(30, 5, 4))).fingerprint())
    seen.add(RealData.from_dataset(table(images()[:29])).fingerprint())
    assert len(seen) == 9


def test_the_fingerprint_follows_the_classes_that_are_left_out():
    data = RealData.from_dataset(table(images(), [2 * (row % 2) for row in range(30)]))
    before = data.fingerprint()
    assert data.leave_out_empty_classes() == ["bee"]
    assert data.fingerprint() != before


@pytest.mark.parametrize("max_bytes", [2 << 30, 100])
def test_images_of_one_class_among_several_names(max_bytes):
    data = RealData.from_dataset(table(images(), [1] * 30), max_bytes=max_bytes)
    assert data.leave_out_empty_classes() == []
    message = "at least two classes, but all 30 are of class 'bee'; give the whole data set"
    with pytest.raises(DataError, match=message):
        data.check_classes()
