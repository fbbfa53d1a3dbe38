"""`dd_plugin.data.augmentation_names`: names in a text, each of a transformation."""

import pytest
import torch

from dd_plugin.data import Augmentation
from dd_plugin.data.augmentation_names import NAMES, augmentation_names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        (" None ", ()),
        ("flip", ("flip",)),
        ("Rotate_Flip", ("rotate", "flip")),
        ("noise+flip", ("noise", "flip")),
        ("dsa", ("color", "crop", "cutout", "flip", "scale", "rotate")),
    ],
)
def test_names(text, names):
    assert augmentation_names(text) == names
    assert Augmentation(text).names == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flip_noise+crop", "joined either by '_'"),
        ("flip_flop", r"got 'flop' \(did you mean 'flip'\?\) in 'flip_flop'"),
        ("flip_flip", "each transformation once"),
        ("flip_", "got '' in 'flip_'"),
    ],
)
def test_what_is_no_augmentation(text, message):
    with pytest.raises(ValueError, match=message):
        augmentation_names(text)


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_one_that_is_done(name):
    images = torch.rand(4, 3, 8, 8)
    assert not torch.equal(Augmentation(name)(images, 1), images)
