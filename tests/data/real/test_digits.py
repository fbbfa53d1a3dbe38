"""The bundled digits: fixed stratified splits, features of the ecosystem, nothing lost."""

import gzip
import sys

import numpy as np
import pytest
from datasets import ClassLabel, DatasetDict, Image

pytest.importorskip("sklearn", reason="the `demo` extra is not installed")

from sklearn import datasets as bundled

from dd_plugin.data import DataError, MissingSplitError, RealData, load_real
from dd_plugin.data.real import digits as module
from dd_plugin.data.real.digits import digit_images, load_digits


@pytest.fixture(scope="module")
def digits():
    return load_digits()


def test_splits_are_stratified_and_hold_everything(digits):
    assert isinstance(digits, DatasetDict)
    assert list(digits) == ["train", "validation", "test"]
    assert sum(len(split) for split in digits.values()) == 1797
    for split, share in zip(digits.values(), (0.6, 0.2, 0.2), strict=True):
        whole = np.bincount(bundled.load_digits().target)
        assert np.abs(np.bincount(split["label"]) - share * whole).max() < 2


def test_features(digits):
    for name, split in digits.items():
        assert isinstance(split.features["image"], Image)
        assert split.features["label"] == ClassLabel(names=list("0123456789"))
        assert str(split.split) == name


def test_pixels_are_the_bundled_ones_scaled_to_eight_bits(digits):
    # Of each class in the file's order, the first three of five are training images.
    values, labels = bundled.load_digits(return_X_y=True)
    zeros = values[labels == 0].reshape(-1, 8, 8)
    train = digits["train"].filter(lambda label: label == 0, input_columns="label")
    for image, place in zip(train["image"], (0, 1, 2, 5, 6, 7), strict=False):
        assert (image.mode, image.size) == ("L", (8, 8))
        # 255 / 16 = 15.94 per step, so rounding keeps all 17 values apart.
        np.testing.assert_array_equal(np.rint(np.asarray(image) / 255 * 16), zeros[place])
    assert max(np.asarray(image).max() for image in train["image"]) == 255


def test_same_each_time(digits):
    again = load_digits()
    assert all(digits[name]["image"][:] == again[name]["image"][:] for name in digits)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        load_digits()


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_run_has_the_same_images_without_datasets(digits, split):
    ours, theirs = load_real("digits", split), RealData.from_dataset(digits, split=split)
    assert ours.fingerprint() == theirs.fingerprint()
    assert ours.class_names == theirs.class_names
    assert ours.shape == theirs.shape == (1, 8, 8)
    assert ours.public_name == "digits"
    assert ours.in_memory


def test_columns_have_names_all_the_same():
    named = load_real("digits", "test", image_column="image", label_column="label")
    assert named.fingerprint() == load_real("digits", "test").fingerprint()
    with pytest.raises(DataError, match="there is no column 'pixels'"):
        load_real("digits", "test", image_column="pixels")


def test_splits_that_there_are():
    with pytest.raises(MissingSplitError, match="no split 'dev'; there are 'train', 'validation'"):
        digit_images("dev")
    with pytest.raises(DataError, match="`split` must say which part"):
        digit_images(None)


@pytest.mark.parametrize("content", [b"", b"not gzip", "few rows"])
def test_a_file_that_is_not_as_it_was_is_read_by_scikit_learn(tmp_path, monkeypatch, content):
    expected = digit_images("train")
    file = tmp_path / "digits.csv.gz"
    if content == "few rows":
        file.write_bytes(gzip.compress(b"1,2,3\n4,5,6\n"))
    else:
        file.write_bytes(content)
    monkeypatch.setattr(module, "_file", lambda: file)
    images = digit_images("train")
    np.testing.assert_array_equal(images.pixels, expected.pixels)
    assert images.labels == expected.labels
