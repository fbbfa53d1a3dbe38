"""Real images on their way into the networks of a set."""

import pytest
import torch

from dd_plugin.data import RealData
from dd_plugin.evaluation.preparation import input_batches, preparation, training_input
from dd_plugin.seeds import InnerPurpose, mix
from tests.distiller.toy import toy_dataset
from tests.hub.toy import synthetic_set


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_are_prepared_as_those_of_the_set(dtype):
    synthetic = synthetic_set(augmentation="flip+scale+noise", dtype=dtype)
    images, targets = synthetic.batch(1, seed=5)
    seed = mix(5, InnerPurpose.AUGMENTATION, 1)
    own = synthetic.images()
    assert torch.equal(training_input(synthetic, own, seed, groups=synthetic.labels), images)
    # Without groups every image is augmented for itself.
    prepared, labels = preparation(synthetic)(own, targets, seed)
    assert torch.equal(prepared, training_input(synthetic, own, seed))
    assert torch.equal(labels, targets)
    assert not torch.equal(prepared, images)


def test_images_to_test_on_are_transformed_alone():
    synthetic = synthetic_set(augmentation="dsa", dtype=torch.float64)
    data = RealData.from_dataset(toy_dataset(30, seed=1))
    batches = input_batches(synthetic, data, 7)
    for _ in range(2):  # as often as one likes
        images = torch.cat([part for part, _ in batches])
        pixels = torch.cat([part for part, _ in data.batches(30)])
        assert torch.equal(images, synthetic.transform(pixels.double()))
