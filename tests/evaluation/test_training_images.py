"""The names of training images, and their pixels."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from dd_plugin.evaluation.training_images import (
    LABEL_CONTROLS,
    TrainingImages,
    eight_bit_images,
    row_labels,
    with_pixels,
)
from tests.hub.toy import synthetic_set


def test_every_kind_has_a_name_of_its_own_in_a_row():
    names = [(images.in_words, images.pixels) for images in TrainingImages]
    assert len(set(names)) == len(TrainingImages)
    distilled = [TrainingImages.distilled(pixels) for pixels in ("exact", "png")]
    assert [i for i in TrainingImages if i.pixels] == [*distilled, TrainingImages.HARD_LABELS]
    assert [i for i in TrainingImages if i.is_trained_as_set] == [*distilled, *LABEL_CONTROLS]


def test_a_table_has_every_kind_under_its_key_in_a_record():
    labels = row_labels("these images", "12", "3", "60")
    assert list(labels) == [images.value for images in TrainingImages]
    assert labels["distilled"] == ("these images", "12, stored as 3")
    assert labels["random real"] == ("random real images of that storage", "3")
    assert labels["distilled, hard labels"][1] == labels["random real, learned labels"][1]
    assert labels["distilled, hard labels"] == ("these images, hard labels", "12, stored as 3")
    assert labels["hardest"] == ("hardest real images by EL2N", "3")
    assert labels["full data"] == ("all real images", "60")
    assert row_labels("these images", "3", "3", "60")["random real"][0].startswith("as many")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_eight_bits_are_those_of_a_png_file(dtype):
    images = torch.linspace(-0.1, 1.1, 64 * 64, dtype=dtype).view(64, 64)
    file = io.BytesIO()
    levels = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    Image.fromarray(levels.numpy()).save(file, "PNG")
    read = torch.from_numpy(np.array(Image.open(file)))
    assert torch.equal(eight_bit_images(images), (read / 255).to(dtype))


def test_a_set_with_other_pixels_is_a_copy():
    synthetic = synthetic_set()
    before = synthetic.images().detach().clone()
    exact, png = (with_pixels(synthetic, pixels) for pixels in ("exact", "png"))
    assert torch.equal(exact.images(), before)
    assert torch.equal(png.images(), eight_bit_images(before))
    with torch.no_grad():
        exact.parametrization.pixels.zero_()
    assert torch.equal(synthetic.images(), before)
    with pytest.raises(ValueError, match=r"`pixels` must be .*, got 'jpeg'"):
        with_pixels(synthetic, "jpeg")
