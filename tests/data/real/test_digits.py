"""The bundled digits: fixed stratified splits, features of the ecosystem, nothing lost."""

import sys

import numpy as np
import pytest
from datasets import ClassLabel, DatasetDict, Image

pytest.importorskip("sklearn", reason="the `demo` extra is not installed")

from sklearn import datasets as bundled

from dd_plugin.data.real.digits import load_digits


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
