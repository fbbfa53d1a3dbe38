"""`dd_plugin.distiller.initial_set`: what the images show and how they are stored at first."""

import logging

import torch

from dd_plugin.data.colors import decorrelating_basis
from tests.distiller.colored import PYRAMID, colored_distiller
from tests.distiller.toy import toy_distiller


def test_images_of_a_class_that_begin_as_means_differ(tmp_path):
    images = toy_distiller(tmp_path, image_init="mean", images_per_class=2).synthetic.images()
    for one, other in images.view(3, 2, *images.shape[1:]):
        assert (one - other).abs().max() > 1e-3


def test_colors_are_those_of_the_training_images(tmp_path):
    distiller = colored_distiller(tmp_path)
    expected = decorrelating_basis(distiller.train_data)
    assert torch.equal(distiller.synthetic.parametrization.basis, expected)
    # The images are gray but for a tint, so the first direction is nearly gray.
    gray = expected[:, 0] / expected[:, 0].norm()
    assert float(gray.min()) > 0.5
    assert (
        colored_distiller(tmp_path / "rgb", color_space="rgb").synthetic.parametrization.basis
        is None
    )


def test_a_color_space_of_gray_images_is_told_to_be_none(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        distiller = toy_distiller(tmp_path, **PYRAMID)
    assert 'color_space="decorrelated" has no effect on images of one channel' in caplog.text
    assert distiller.synthetic.parametrization.basis is None
