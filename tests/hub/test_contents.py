"""`dd_plugin.hub.contents`: what a set shows of itself."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from dd_plugin import DistilledDataset
from dd_plugin.data.parametrization import Pixels
from dd_plugin.data.recipe import Recipe
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.data.transforms import Normalization
from dd_plugin.hub.folder import to_bytes, write_set
from tests.hub.toy import synthetic_set, write_toy


def test_what_is_in_it(distilled):
    assert len(distilled) == 3
    assert distilled.class_names == ("left", "right", "middle")
    assert distilled.images.shape == (3, 1, 8, 8)
    assert distilled.labels.tolist() == [0, 1, 2]
    assert distilled.soft_labels is None
    assert distilled.step_sizes.shape == (12,)
    assert distilled.results["distilled"]["accuracies"]
    rows = distilled.to_dataset()
    assert rows.features["label"].names == ["left", "right", "middle"]
    pixels = torch.stack([torch.from_numpy(np.array(row["image"])) for row in rows])
    assert torch.equal(pixels.view(3, 1, 8, 8).to(torch.uint8), to_bytes(distilled.images))


def test_it_is_a_data_set_of_images_and_labels(distilled):
    image, label = distilled[1]
    assert torch.equal(image, distilled.images[1])
    assert label == 1
    assert torch.equal(distilled[-1][0], distilled.images[2])
    images, labels = distilled[1:]
    assert torch.equal(images, distilled.images[1:])
    assert labels.tolist() == [1, 2]
    assert distilled[[2, 0]][1].tolist() == distilled[torch.tensor([2, 0])][1].tolist() == [2, 0]
    assert [int(label) for _, label in distilled] == [0, 1, 2]
    for missing in (3, -4, [0, 3]):
        with pytest.raises(IndexError):
            distilled[missing]


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_loader_makes_batches_of_it(distilled, shuffle):
    loader = DataLoader(distilled, batch_size=2, shuffle=shuffle)
    assert [len(labels) for _, labels in loader] == [2, 1]
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    order = labels.argsort()
    assert labels[order].tolist() == [0, 1, 2]
    assert torch.equal(images[order], distilled.images)


def test_learned_labels_are_those_of_its_places(tmp_path):
    learned = SyntheticSet(
        Recipe(shape=(1, 4, 4), class_names=("a", "b"), steps=2),
        Pixels(torch.rand(4, 1, 4, 4)),
        torch.arange(4) % 2,
        torch.tensor([0.1, 0.2]),
        transform=Normalization([0.5], [0.25]),
        soft_labels=True,
    )
    write_set(tmp_path, learned)
    soft = DistilledDataset.from_pretrained(tmp_path)
    assert torch.equal(soft[0][1], soft.soft_labels[0])
    (images, labels), *_ = DataLoader(soft, batch_size=len(soft))
    assert torch.equal(labels, soft.soft_labels)
    assert images.shape == soft.images.shape


def test_images_of_any_kind_are_prepared_as_for_training(distilled):
    picture = Image.fromarray(np.arange(12 * 12, dtype=np.uint8).reshape(12, 12))
    one = distilled.preprocess(picture)
    assert one.shape == (1, 1, 8, 8)
    assert torch.equal(distilled.preprocess([picture, np.asarray(picture)]), torch.cat([one, one]))
    png = to_bytes(distilled.images)[0, 0].numpy()
    expected, _ = distilled.synthetic("png").batch(0, 0)
    assert torch.allclose(distilled.preprocess(png)[0], expected[0], atol=1e-6)
    with pytest.raises(ValueError, match="at least one image, got none"):
        distilled.preprocess([])


def test_other_images_take_the_place_of_the_set(tmp_path):
    opened = DistilledDataset.from_pretrained(write_toy(tmp_path))
    other = synthetic_set(soft_labels=True)
    stored = opened.stored_with(other)
    assert stored.synthetic is other
    assert stored.record.to_json() == opened.record
    assert opened.soft_labels is None
