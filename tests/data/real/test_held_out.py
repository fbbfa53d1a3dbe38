"""`dd_plugin.data.real.held_out`: how many images of each class are held out, and which."""

import pytest
import torch

from dd_plugin.data.real.held_out import HeldOut


@pytest.mark.parametrize(
    ("images", "fraction", "keep", "held"),
    [(100, 0.2, 1, 20), (3, 0.2, 1, 1), (1, 0.2, 1, 0), (0, 0.2, 1, 0), (12, 0.5, 10, 2)],
)
def test_a_class_gives_its_share_and_keeps_what_the_run_needs(images, fraction, keep, held):
    assert HeldOut(fraction, seed=0, keep=keep).count(images) == held


def test_the_part_is_stratified_and_depends_on_the_seed_alone():
    labels = torch.arange(3).repeat_interleave(torch.tensor([10, 20, 30]))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    labels = labels[order]
    mask = HeldOut(0.2, seed=0).mask(labels, [10, 20, 30])
    assert labels[mask].bincount().tolist() == [2, 4, 6]
    torch.rand(3)
    assert torch.equal(mask, HeldOut(0.2, seed=0).mask(labels, [10, 20, 30]))
    assert not torch.equal(mask, HeldOut(0.2, seed=1).mask(labels, [10, 20, 30]))


def test_classes_without_images_change_nothing():
    labels = torch.tensor([0, 0, 0, 0, 2, 2, 2, 2])
    with_empty = HeldOut(0.5, seed=0).mask(labels, [4, 0, 4])
    assert torch.equal(with_empty, HeldOut(0.5, seed=0).mask(labels.clamp(max=1), [4, 4]))
